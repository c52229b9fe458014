"""The products of the embedded shop and the words of its reviews."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from rcjax.catalog import shop_words
from rcjax.catalog.draws import Draws
from rcjax.catalog.shop_departments import DEPARTMENTS, Department
from rcjax.catalog.types import Item

# What a taste can attach to. Every product's title names its value of each, so a history of titles shows them.
ASPECT_VALUES: dict[str, tuple[str, ...]] = {
    "department": tuple(department.name for department in DEPARTMENTS),
    "brand": shop_words.BRANDS,
    "line": tuple(shop_words.LINES),
    "material": tuple(shop_words.MATERIALS),
    "colour": tuple(shop_words.COLOURS),
    "use": tuple(shop_words.USES),
    "audience": tuple(shop_words.AUDIENCES),
}

_TITLES = (
    "{brand} {line} {use} {kind}, {material} in {colour}, for {audience}",
    "{brand} {use} {kind} in {colour} {material} for {audience}, {line}",
    "{line} {use} {kind} for {audience} by {brand}, {colour} {material}",
    "{brand} {colour} {material} {use} {kind} for {audience} ({line})",
)
_INTRODUCTIONS = (
    "A {kind} in {material} with {audience} in mind.",
    "From the {line} line by {brand}.",
    "{brand} makes this {kind} in {colour} and four other shades.",
)
# share of products whose description has 1, 2, 3, ... sentences, without introduction and closing
_NUM_SENTENCES = (0.08, 0.17, 0.22, 0.20, 0.13, 0.09, 0.05, 0.03, 0.03)
_CENTS = (0.0, 0.5, 0.9, 0.95)
_MENTIONS = {
    "department": "this {kind}",
    "brand": "anything by {brand}",
    "line": "the {line} line",
    "material": "the {material}",
    "colour": "the {colour} shade",
    "use": "the {use} design",
    "audience": "what it does for {audience}",
}
_LOWER_CASE = ("kind", "material", "colour", "use", "audience")


@dataclass(frozen=True, slots=True)
class Product:
    """An item, the kind of thing it is, and its value of each aspect, in the order of `ASPECT_VALUES`."""

    item: Item
    kind: str
    values: tuple[str, ...]

    @property
    def department(self) -> str:
        return self.values[0]

    def words(self, *, lower_case: bool) -> dict[str, str]:
        """What a sentence pattern about the product may name."""
        words = {"kind": self.kind, **dict(zip(ASPECT_VALUES, self.values, strict=True))}
        if lower_case:
            words.update({name: words[name].lower() for name in _LOWER_CASE})
        return words


def products(draws: Draws, num_items: int) -> Iterator[Product]:
    """Yields products with distinct titles; departments have about equal shares."""
    brands_of = {d.name: draws.sample(shop_words.BRANDS, 8) for d in DEPARTMENTS}
    titles: set[str] = set()
    while len(titles) < num_items:
        department = DEPARTMENTS[len(titles) % len(DEPARTMENTS)]
        product = _product(draws, f"item-{len(titles):05d}", department, brands_of[department.name])
        if product.item.title not in titles:
            titles.add(product.item.title)
            yield product


def review(draws: Draws, product: Product, rating: int, mention: int) -> str:
    """A few words that tell the rating and one aspect, and a remark that tells nothing."""
    pattern = list(_MENTIONS.values())[mention]
    opinion = f"{draws.choice(shop_words.OPENINGS[rating])} {pattern.format(**product.words(lower_case=True))}."
    return f"{opinion} {draws.choice(shop_words.REMARKS)}".strip()


def _product(draws: Draws, item_id: str, department: Department, brands: list[str]) -> Product:
    kind = draws.choice(department.kinds)
    line = draws.choice(ASPECT_VALUES["line"])
    values = (
        department.name,
        draws.choice(brands),
        line,
        draws.choice(kind.materials),
        draws.choice(ASPECT_VALUES["colour"]),
        draws.choice(ASPECT_VALUES["use"]),
        draws.choice(ASPECT_VALUES["audience"]),
    )
    bare = Product(Item(item_id, ""), kind.noun, values)
    price = kind.price * shop_words.LINES[line][0] * (0.8 + 0.4 * draws.uniform())
    item = Item(
        item_id=item_id,
        title=draws.choice(_TITLES).format(**bare.words(lower_case=False)),
        description=_description(draws, bare, (kind.detail, *department.details)),
        brand=bare.values[1],
        categories=(department.name, kind.plural),
        price=round(int(price) + draws.choice(_CENTS), 2),
    )
    return Product(item, kind.noun, values)


def _description(draws: Draws, product: Product, details: Sequence[str]) -> str:
    names = product.words(lower_case=False)
    pool = [
        draws.choice(shop_words.MATERIALS[names["material"]]),
        draws.choice(shop_words.COLOURS[names["colour"]]),
        draws.choice(shop_words.USES[names["use"]]),
        draws.choice(shop_words.AUDIENCES[names["audience"]]),
        draws.choice(shop_words.LINES[names["line"]][1]),
        *details,
    ]
    sentences = draws.sample(pool, 1 + draws.weighted(np.array(_NUM_SENTENCES)))
    if draws.uniform() < 0.4:
        sentences.insert(0, draws.choice(_INTRODUCTIONS).format(**product.words(lower_case=True)))
    if draws.uniform() < 0.4:
        sizes = {"a": 8 + draws.below(60), "b": 5 + draws.below(40), "c": 90 + 10 * draws.below(200)}
        sentences.append(draws.choice(shop_words.CLOSINGS).format(**sizes))
    return " ".join(sentences)
