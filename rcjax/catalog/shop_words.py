"""What the embedded shop says about its products, and its customers about them: all invented for this project."""

BRANDS = (
    "Velmora", "Tindrel", "Oskarra", "Brivane", "Quillmere", "Farnholt", "Lumbry", "Castavel",
    "Dovrik", "Elmsire", "Henquist", "Jorvale", "Kestrane", "Marlowick", "Nyborne", "Ostrevin",
    "Pellamy", "Ravensk", "Sundrel", "Thaldor", "Ulvare", "Wexmoor", "Yarrowby", "Zephrin",
)  # fmt: skip

# line of a brand -> factor on the price, and what is said about it
LINES = {
    "Basics": (
        0.55,
        ("Plain, honest and priced to be used hard.", "Nothing fancy: the parts that matter, at a low price."),
    ),
    "Classic": (
        1.0,
        ("The version most of our customers come back for.", "A balanced middle of the range, made to last years."),
    ),
    "Reserve": (
        2.1,
        (
            "Made in numbered batches and finished by one person.",
            "Our finest grade, with a ten-year guarantee and a gift box.",
        ),
    ),
}

MATERIALS = {
    "Oak": (
        "Solid oak with an open grain, oiled rather than lacquered.",
        "Cut from slow-grown oak that darkens with time.",
    ),
    "Walnut": ("Dark walnut with a calm, straight figure.", "The walnut is offcut wood from a chair workshop."),
    "Bamboo": ("Bamboo that is light, springy and quick to regrow.", "Pressed bamboo, harder than it looks."),
    "Cork": (
        "Natural cork that feels warm and dampens every knock.",
        "The cork is peeled by hand and the trees live on.",
    ),
    "Steel": (
        "Brushed steel that shrugs off scratches and rust.",
        "Drawn from one sheet of steel, with no welds to fail.",
    ),
    "Brass": ("Unlacquered brass that takes on a patina where you touch it.", "Turned brass with a reassuring weight."),
    "Glass": ("Clear, thick glass blown into a wooden mould.", "The glass is tempered and survives a clumsy moment."),
    "Stoneware": ("Stoneware fired twice, with a matte glaze.", "Thrown stoneware; no two pieces are quite the same."),
    "Cotton": ("Long-staple cotton, tightly spun and soft.", "Organic cotton from a mill that shows its books."),
    "Linen": ("European-style linen with a dry, crisp hand.", "Stone-washed linen that looks better unpressed."),
    "Wool": ("Lambswool that keeps its warmth even when damp.", "Felted wool that sheds dust and small spills."),
    "Felt": ("Thick pressed felt that holds its shape.", "Felt made from recycled fibres, three millimetres strong."),
    "Leather": (
        "Vegetable-tanned leather that grows softer each month.",
        "Full-grain leather, saddle stitched at the corners.",
    ),
    "Canvas": ("Waxed canvas that turns rain away.", "Heavy canvas, woven like the sails it is named after."),
}

COLOURS = {
    "Sage": ("The sage tone sits well beside plants.", "A dusty sage green, never loud."),
    "Charcoal": ("Charcoal hides marks and goes with everything.", "A deep charcoal, nearly black at dusk."),
    "Ivory": ("Ivory brings light into a dark corner.", "A creamy ivory without a yellow cast."),
    "Rust": ("The rust shade glows in evening light.", "A warm rust, like leaves in October."),
    "Navy": ("Navy, and not a hint of purple in it.", "A sober navy that ages slowly."),
    "Mustard": ("The mustard is cheerful without shouting.", "A mustard yellow borrowed from old posters."),
    "Blush": ("Blush, somewhere between clay and rose.", "A pale blush that flatters plain rooms."),
    "Teal": ("The teal shifts from blue to green with the hour.", "A saturated teal, dyed right through."),
    "Plum": ("Plum, dark and a little mysterious.", "A ripe plum that looks rich in any light."),
    "Sand": ("The sand colour hides dust and footprints.", "A quiet sand that asks for nothing."),
}

USES = {
    "Travel": ("Packs flat, so it comes along on every trip.", "Light enough for hand luggage."),
    "Everyday": ("Meant to be used from morning to night, every day.", "The one that never goes back in the cupboard."),
    "Outdoor": ("Happy on the balcony, the beach or the trail.", "Sealed against rain and grit for life outside."),
    "Compact": ("Takes half the room of the usual kind.", "Folds into a narrow gap when it is not needed."),
    "Festive": ("Comes out for birthdays, feasts and long weekends.", "Dressed up enough for a celebration."),
    "Workday": (
        "Built around a working day, quick to set up and put away.",
        "Looks right in a meeting and works hard after it.",
    ),
    "Evening": ("For slow evenings after the dishes are done.", "Best in low light with nothing left to do."),
    "Winter": ("Made for cold months and early dark.", "A small comfort from the first frost to the thaw."),
}

AUDIENCES = {
    "Children": ("Sized for small hands and safe to drop.", "Children understand it without being told."),
    "Students": (
        "Survives shared flats and three moves a year.",
        "A student budget and a student desk were the brief.",
    ),
    "Families": (
        "There is enough of it to go round a full house.",
        "Families with three generations helped to design it.",
    ),
    "Collectors": ("Signed on the base, as collectors like it.", "Part of a yearly series that collectors complete."),
    "Beginners": (
        "A first one that you will not need to replace.",
        "A short booklet takes beginners through the first week.",
    ),
    "Commuters": ("Commuters told us what breaks, and we fixed that.", "Ready for the early train and the late one."),
    "Hosts": ("Guests ask where it comes from, hosts tell us.", "Gives a host one thing less to think about."),
    "Couples": ("Made for two, and better shared.", "A good present from one half of a couple to the other."),
}

CLOSINGS = (
    "Wipe clean with a damp cloth.",
    "Ships in recycled card without plastic.",
    "Measures {a} by {b} centimetres.",
    "Spare parts are kept for fifteen years.",
    "Weighs {c} grams.",
    "Made in small runs in our own workshop.",
    "Returns are free within sixty days.",
)

# rating -> how a review of that rating starts; every opening belongs to one rating
OPENINGS = {
    1: ("Let down by", "Really disappointed by", "I regret choosing"),
    2: ("Not so keen on", "I expected more of", "A little let down by"),
    3: ("In two minds about", "Undecided about", "No strong feelings about"),
    4: ("Pleased with", "I quite like", "Good choice, happy about"),
    5: ("Delighted with", "I love", "Could not be happier with"),
}

REMARKS = (
    *("",) * 7,
    "It came on time.",
    "A present to myself.",
    "My second one.",
    "Used daily since.",
    "As described.",
)
