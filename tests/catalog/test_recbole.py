"""RecBole's atomic files, in the layouts of the data sets that it publishes."""

from pathlib import Path

import pytest

from rcjax.catalog import Catalogue, CatalogueError, Event, Item, load_catalogue

ML_ITEMS = (
    "item_id:token\tmovie_title:token_seq\trelease_year:token\tclass:token_seq\n"
    "1\tToy Story\t1995\tAnimation Children's Comedy\n2\tL'été\t1996\t\n"
)
ML_EVENTS = "user_id:token\titem_id:token\trating:float\ttimestamp:float\n7\t2\t4\t978300760\n7\t1\t4.5\t978300700.0\n"


def load(folder: Path, items: str, events: str | None = None, **options: str) -> Catalogue:
    (folder / "shop.item").write_text(items, encoding="utf-8")
    if events is not None:
        (folder / "shop.inter").write_text(events, encoding="utf-8")
    return load_catalogue(folder, "recbole", progress=False, **options)[0]


def items_of(folder: Path, header: str, *rows: str) -> list[Item]:
    return list(load(folder, "".join(f"{line}\n" for line in (header, *rows))).items.values())


def test_movielens_as_recbole_has_it(tmp_path: Path) -> None:
    catalogue = load(tmp_path, ML_ITEMS, ML_EVENTS)
    assert list(catalogue.items.values()) == [
        Item("1", "Toy Story", categories=("Animation", "Children's", "Comedy")),
        Item("2", "L'été"),
    ]
    assert catalogue.users["7"].events == (
        Event("1", "Toy Story", rating=4.5, timestamp_s=978300700),
        Event("2", "L'été", rating=4.0, timestamp_s=978300760),
    )


def test_amazon_as_recbole_has_it(tmp_path: Path) -> None:
    header = "item_id:token\tcategories:token_seq\ttitle:token\tprice:float\tsales_rank:float\tbrand:token"
    rows = [
        "B01\t'Movies & TV', \"Kids' Movies\"\tHeat\t12.99\t376041.0\tAda",
        "B02\t['Beauty', 'Bath']\tSoap\t\t\t",
        "B03\tBeauty\tBrush\t1.234\t1\tBo",
        "B04\t\t'Til Dawn\tnan\t\t",
    ]
    assert items_of(tmp_path, header, *rows) == [
        Item("B01", "Heat", "", "Ada", ("Movies & TV", "Kids' Movies"), 12.99),
        Item("B02", "Soap", "", "", ("Beauty", "Bath")),
        Item("B03", "Brush", "", "Bo", ("Beauty",), 1.234),  # a float is no text that might be a thousand
        Item("B04", "'Til Dawn"),
    ]


@pytest.mark.parametrize(
    ("kind", "text", "expected"),
    [
        ("token_seq", "Drama, Sci Fi,School", ("Drama", "Sci Fi", "School")),
        ("token_seq", "Drama  School", ("Drama", "School")),
        ("token_seq", "'70s Drama", ("'70s", "Drama")),
        ("token_seq", '["a b", "c"]', ("a b", "c")),
        ("token", "Sci Fi, old", ("Sci Fi, old",)),
    ],
)
def test_categories(tmp_path: Path, kind: str, text: str, expected: tuple[str, ...]) -> None:
    (item,) = items_of(tmp_path, f"item_id:token\tname:token_seq\tgenre:{kind}", f"1\tA\t{text}")
    assert item.categories == expected


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", r"shop\.item: empty; expected a header"),
        ("item_id\ttitle:token\n", r"shop\.item:1: not a header of RecBole's: 'item_id' is not name:type"),
        ("item_id:token\ttitle:str\n", r"shop\.item:1: .* 'title:str' is not name:type with a type of token, token_s"),
        ("item_id:token\ttitle:token\ttitle:token_seq\n", r"shop\.item:1: column 'title' is there more than once"),
        ("item_id:float\ttitle:token\n", r":1: column 'item_id' is of type float, and 'item_id' is read from token;"),
        ("item_id:token\tyear:token\n", r"shop\.item:1: no column title or item_name or movie_title or name; it has"),
        ("item_id:token\ttitle:token\n1\n", r"shop\.item:2: expected 2 values between tabs as in the header, got 1"),
        ("item_id:token\ttitle:token\n\tA\n", r"shop\.item:2: field 'item_id': missing"),
        (
            "item_id:token\ttitle:token\tgenre:token_seq\n1\tA\t[b, c]\n",
            r":2: field 'categories' \(column 'genre'\): expected a list of quoted text, got '\[b, c\]'",
        ),
    ],
)
def test_what_is_wrong_is_named(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "shop.item").write_text(text)
    with pytest.raises(CatalogueError, match=message):
        load_catalogue(tmp_path, "recbole", progress=False)


def test_a_last_line_without_a_break_is_told(tmp_path: Path) -> None:
    (tmp_path / "shop.item").write_text(ML_ITEMS.removesuffix("\n"))
    (note,) = load_catalogue(tmp_path, "recbole", progress=False)[1].lines()
    assert note.startswith(f"{tmp_path}/shop.item:3: the file ends without a line break")


def test_a_bad_event_is_named_or_skipped(tmp_path: Path) -> None:
    events = ML_EVENTS + "7\t1\tfive\t1\n8\t1\t5\t978300760000\n"
    with pytest.raises(CatalogueError, match=r"shop\.inter:4: field 'rating': expected a number, got 'five'"):
        load(tmp_path, ML_ITEMS, events)
    assert list(load(tmp_path, ML_ITEMS, events, on_error="skip").users) == ["7"]
    with pytest.raises(CatalogueError, match=r":2: field 'timestamp_s' \(column 'timestamp'\): .* in another unit"):
        load(tmp_path, ML_ITEMS, "user_id:token\titem_id:token\ttimestamp:float\n8\t1\t978300760000\n")


def test_the_parts_of_a_benchmark_are_not_mixed(tmp_path: Path) -> None:
    (tmp_path / "shop.item").write_text(ML_ITEMS)
    for part in ("train", "test"):
        (tmp_path / f"shop.{part}.inter").write_text(ML_EVENTS)
    with pytest.raises(CatalogueError, match=r"shop\.test\.inter, shop\.train\.inter all fit; keep one or name"):
        load_catalogue(tmp_path, "recbole", progress=False)
