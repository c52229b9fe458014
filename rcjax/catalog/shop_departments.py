"""The departments of the embedded shop and what they sell: all invented for this project."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Kind:
    """A kind of product: its noun and plural, the price of its middle line, what it is made of, and a detail."""

    noun: str
    plural: str
    price: float
    materials: tuple[str, ...]
    detail: str


@dataclass(frozen=True, slots=True)
class Department:
    """A category of the shop; `related` are the departments that are visited in the same session."""

    name: str
    related: tuple[str, ...]
    details: tuple[str, ...]  # true of everything that it sells
    kinds: tuple[Kind, ...]


_TABLE = """
# Kitchen & Table | Lighting, Garden
Safe in the dishwasher on the lower rack. | Tested for contact with hot and oily food. | Stores neatly with its series.
Teapot | Teapots | 38 | Steel, Glass, Stoneware | Pours without a drip and keeps four cups warm.
Mixing Bowl | Mixing Bowls | 24 | Bamboo, Steel, Glass, Stoneware | The lip is wide, so batter goes where it should.
Chopping Board | Chopping Boards | 32 | Oak, Walnut, Bamboo | A groove along the edge catches the juice.
Storage Jar | Storage Jars | 16 | Steel, Glass, Stoneware | The lid seals with a quarter turn and keeps coffee fresh.
Serving Tray | Serving Trays | 29 | Oak, Bamboo, Brass, Cork | Raised handles carry six full glasses safely.

# Lighting | Furniture, Stationery
The warm bulb is included and changes without tools. | The cord is three metres long. | Runs cool all day.
Desk Lamp | Desk Lamps | 54 | Walnut, Brass, Steel | The head tilts and stays exactly where you leave it.
Table Lantern | Table Lanterns | 36 | Brass, Steel, Glass, Bamboo | Flickers like a candle, without the soot.
Reading Light | Reading Lights | 27 | Brass, Steel, Leather | Clips to a headboard and lights one page only.
Floor Lamp | Floor Lamps | 110 | Oak, Walnut, Brass, Linen | A foot switch dims it in five steps.
Night Light | Night Lights | 18 | Glass, Stoneware, Felt | Glows for nine hours and then fades slowly.

# Furniture | Lighting, Bedding & Textiles
Goes together in ten minutes with one key. | Hidden levellers keep it steady on old floors. | Edges are sanded by hand.
Side Table | Side Tables | 120 | Oak, Walnut, Brass, Cork | Just high enough for a cup beside the sofa.
Bookshelf | Bookshelves | 180 | Oak, Walnut, Bamboo, Steel | Five shelves that do not bow under big books.
Stool | Stools | 75 | Oak, Steel, Leather, Cork | Three legs, so it never wobbles.
Coat Stand | Coat Stands | 90 | Oak, Walnut, Bamboo, Brass | Eight hooks and a ring for umbrellas.
Hallway Bench | Hallway Benches | 160 | Oak, Bamboo, Leather, Canvas | Lifts open to hide boots and scarves.

# Bags & Cases | Sports & Trails, Stationery
Zips run smoothly and are easy to replace. | Seams are doubled under strain. | The pale lining helps to find things.
Backpack | Backpacks | 85 | Leather, Canvas, Wool, Cotton | Padded straps spread the load over both shoulders.
Holdall | Holdalls | 98 | Leather, Canvas, Wool | Swallows three days of clothes and one pair of shoes.
Wash Bag | Wash Bags | 28 | Canvas, Cotton, Linen | Hangs from a hook and wipes clean inside.
Wallet | Wallets | 34 | Leather, Canvas, Felt | Eight cards, some notes and no bulge.
Laptop Sleeve | Laptop Sleeves | 42 | Leather, Felt, Wool, Cork | The flap holds by magnets, away from the screen.

# Garden | Kitchen & Table, Pets
Stands frost and strong sun. | Needs no care but a rinse in spring. | Our own gardeners used it for two seasons.
Planter | Planters | 30 | Oak, Steel, Stoneware, Cork | Drains well, so roots never sit in water.
Watering Can | Watering Cans | 33 | Steel, Brass | The rose is fine enough for seedlings.
Trowel Set | Trowel Sets | 26 | Oak, Steel, Brass | Three blades, one of them for bulbs.
Bird Feeder | Bird Feeders | 22 | Oak, Bamboo, Glass, Brass | Sparrows and tits found ours within a day.
Seed Box | Seed Boxes | 19 | Oak, Steel, Cork | Twelve months, twelve dividers and a pencil.

# Stationery | Lighting, Bags & Cases
Fits a standard desk drawer. | Makes a tidy present without wrapping. | Left-handed people helped to design it.
Notebook | Notebooks | 14 | Leather, Linen, Cork, Felt | Opens flat and takes ink without feathering.
Pen Set | Pen Sets | 31 | Brass, Walnut, Steel, Bamboo | Refills are standard and easy to find.
Desk Tray | Desk Trays | 25 | Walnut, Brass, Cork, Leather | Keeps clips, cards and chargers in one place.
Pencil Case | Pencil Cases | 17 | Leather, Felt, Canvas, Cotton | Stands up by itself when it is open.
Wall Planner | Wall Planners | 21 | Linen, Cork, Felt | Shows six weeks at a glance and rolls up.

# Toys & Games | Music & Sound, Bedding & Textiles
Paints and dyes are water based. | Packs away into its own drawstring bag. | Has survived two kindergartens.
Puzzle | Puzzles | 20 | Oak, Bamboo, Cork, Felt | Sixty pieces and more than one solution.
Building Blocks | Building Blocks | 35 | Oak, Walnut, Bamboo, Cork | Forty shapes that balance better than they should.
Board Game | Board Games | 39 | Oak, Bamboo, Linen, Leather | Plays in half an hour and is never the same twice.
Pull Toy | Pull Toys | 23 | Oak, Walnut, Felt | Wags its tail when it is pulled along.
Memory Cards | Memory Cards | 15 | Cork, Linen, Felt, Bamboo | Thirty pairs, some of them nearly alike.

# Sports & Trails | Bags & Cases, Bath & Body
Light enough to forget about. | A loop clips it to the outside of any pack. | Rinses clean and keeps no smell.
Water Bottle | Water Bottles | 26 | Steel, Glass, Bamboo | Keeps ice for a day and never sweats.
Exercise Mat | Exercise Mats | 44 | Cork, Cotton, Felt, Canvas | Grips the floor even when it is wet.
Jump Rope | Jump Ropes | 18 | Leather, Cotton, Canvas | The handles turn freely and do not tangle.
Camp Mug | Camp Mugs | 16 | Steel, Bamboo, Stoneware | Holds soup as happily as coffee.
Trail Towel | Trail Towels | 22 | Cotton, Linen, Bamboo | Dries a swimmer and then dries itself.

# Bath & Body | Bedding & Textiles, Sports & Trails
Stays fresh in a room without a window. | Comes with a small bar of plain soap. | Looks good next to old tiles.
Soap Dish | Soap Dishes | 15 | Bamboo, Brass, Stoneware, Glass | Water runs off, so the soap lasts twice as long.
Bath Tray | Bath Trays | 37 | Oak, Walnut, Bamboo | Holds a book, a cup and a candle over the tub.
Body Brush | Body Brushes | 19 | Oak, Bamboo, Cork | Bristles are firm at first and soften in a week.
Towel Set | Towel Sets | 48 | Cotton, Linen, Bamboo | Two large, two small, and all of them thirsty.
Shaving Stand | Shaving Stands | 29 | Walnut, Brass, Steel, Stoneware | Weighted at the foot so that it cannot tip.

# Pets | Garden, Sports & Trails
Chewed and scratched by six test animals. | Comes in the size that fits most. | Easy to clean on a Sunday afternoon.
Dog Bed | Dog Beds | 68 | Canvas, Wool, Felt, Cotton | The cover comes off in one move.
Food Bowl | Food Bowls | 20 | Steel, Stoneware, Bamboo | Heavy enough not to wander across the floor.
Collar | Collars | 24 | Leather, Canvas, Wool | The buckle opens with one hand, also in gloves.
Cat Tunnel | Cat Tunnels | 33 | Canvas, Felt, Cotton | Rustles a little, which is the point.
Lead | Leads | 27 | Leather, Canvas, Cotton | A second handle sits close to the collar.

# Bedding & Textiles | Furniture, Bath & Body
Washed before sale, so it keeps its size. | The hem is folded twice and will not curl. | Needs no ironing.
Throw | Throws | 58 | Cotton, Linen, Wool | Large enough for two on one sofa.
Cushion | Cushions | 32 | Cotton, Linen, Wool, Leather | The filling plumps up again after a long film.
Pillowcase | Pillowcases | 21 | Cotton, Linen, Bamboo | Cool on both sides, as it should be.
Curtain | Curtains | 64 | Linen, Cotton, Wool, Felt | Falls in even folds and keeps the street out.
Quilt | Quilts | 130 | Cotton, Linen, Wool | Stitched in small diamonds, so nothing shifts.

# Music & Sound | Toys & Games, Furniture
Damped feet stop the table from humming along. | Checked by ear before it ships. | Ages well beside old records.
Headphone Stand | Headphone Stands | 34 | Walnut, Oak, Brass, Leather | Curved so that the band keeps its shape.
Record Crate | Record Crates | 46 | Oak, Walnut, Canvas, Cork | Holds about sixty sleeves at an easy angle.
Hand Drum | Hand Drums | 72 | Oak, Walnut, Leather, Bamboo | The tone is round and warm even when played softly.
Desk Speaker | Desk Speakers | 95 | Walnut, Oak, Felt, Cork | Fills a small room and stays clear at low volume.
Music Box | Music Boxes | 41 | Walnut, Brass, Bamboo | Plays a slow tune of thirty notes.
"""


def _departments() -> tuple[Department, ...]:
    """Reads the table: a block per department, with its name, its details, and a line per kind."""
    departments = []
    for block in _TABLE.strip().split("\n\n"):
        heading, details, *kinds = ([cell.strip() for cell in line.split("|")] for line in block.splitlines())
        departments.append(
            Department(
                name=heading[0].removeprefix("# "),
                related=tuple(heading[1].split(", ")),
                details=tuple(details),
                kinds=tuple(
                    Kind(noun, plural, float(price), tuple(materials.split(", ")), detail)
                    for noun, plural, price, materials, detail in kinds
                ),
            )
        )
    return tuple(departments)


DEPARTMENTS = _departments()
