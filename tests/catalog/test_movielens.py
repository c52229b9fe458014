"""MovieLens files, written here in both of their layouts."""

from pathlib import Path

import pytest

from rcjax.catalog import CatalogueError, Item, load_catalogue, movielens
from rcjax.catalog.report import ReadLog

DAT_MOVIES = "1::Toy Story (1995)::Animation|Children's|Comedy\n2::Café (1996)::Drama\n"
CSV_MOVIES = (
    "movieId,title,genres\n"
    '1,Toy Story (1995),Animation|Children|Comedy\n11,"American President, The (1995)",(no genres listed)\n'
)


@pytest.mark.parametrize("encoding", ["latin-1", "utf-8"], ids=["1M", "10M"])
def test_dat_is_latin_1_or_utf_8(tmp_path: Path, encoding: str) -> None:
    (tmp_path / "movies.dat").write_bytes(DAT_MOVIES.encode(encoding))
    (tmp_path / "ratings.dat").write_text("7::2::4::978300760\n7::1::5::978300700\n")
    catalogue, report = load_catalogue(tmp_path, "movielens", progress=False)
    assert list(catalogue.items.values()) == [
        Item("1", "Toy Story (1995)", categories=("Animation", "Children's", "Comedy")),
        Item("2", "Café (1996)", categories=("Drama",)),
    ]
    events = catalogue.users["7"].events
    assert [(e.item_id, e.title, e.rating, e.timestamp_s) for e in events] == [
        ("1", "Toy Story (1995)", 5.0, 978300700),
        ("2", "Café (1996)", 4.0, 978300760),
    ]
    assert report.skipped == {}


def test_csv_has_a_header_and_quotes(tmp_path: Path) -> None:
    (tmp_path / "movies.csv").write_text(CSV_MOVIES)
    (tmp_path / "ratings.csv").write_text("userId,movieId,rating,timestamp\n1,11,3.5,1147880044\n")
    catalogue, _ = load_catalogue(tmp_path, "movielens", progress=False)
    assert catalogue.items["11"] == Item("11", "American President, The (1995)")
    assert catalogue.users["1"].events[0].rating == 3.5


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("movies.dat", "1::A::x\n2::B\n", r"movies\.dat:2: expected 3 fields movieId, title, genres .* got 2"),
        ("movies.dat", "1::A::x\n2::B", r"movies\.dat:2: expected 3 fields .* is it cut off"),
        ("movies.csv", "movieId,title,genres,title\n", r"movies\.csv:1: field 'title': more than once in the header"),
        ("movies.csv", "movieId,name,genres\n", r"movies\.csv:1: field 'title': not in the header"),
        ("movies.csv", "movieId,title,genres\n1,A\n", r"movies\.csv:2: expected 3 fields .* got 2"),
        ("movies.csv", 'movieId,title,genres\n1,"A,x\n', r"movies\.csv:2: not CSV"),
    ],
)
def test_a_bad_movie_is_named(tmp_path: Path, name: str, text: str, message: str) -> None:
    (tmp_path / name).write_text(text)
    with pytest.raises(CatalogueError, match=message):
        list(movielens.read_items(tmp_path / name, ReadLog()))


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("1::2::five::978300760", "field 'rating': expected a number, got 'five'"),
        ("1::2::50::978300760", "field 'rating': expected a number from 0 to 5, got '50'"),
        ("1::2::5::978300760000", "field 'timestamp': expected a time in s since 1970, got '978300760000'"),
        (" 1::2::5::978300760", "field 'userId': blanks around the id ' 1'"),
    ],
)
def test_a_bad_rating_is_named(tmp_path: Path, line: str, message: str) -> None:
    (tmp_path / "ratings.dat").write_text(f"1::1::5::978300760\n{line}\n")
    with pytest.raises(CatalogueError, match=rf"ratings\.dat:2: {message}"):
        list(movielens.read_events(tmp_path / "ratings.dat", ReadLog()))


@pytest.mark.parametrize(
    ("data", "message"),
    [
        # é is 0xe9 in Latin-1 and 0xc3 0xa9 in UTF-8
        (
            b"1::\xc3\xa9::x\n2::\xe9 a::x\n",
            r"movies\.dat:2: is not UTF-8, but .*movies\.dat:1 is; one file has one",
        ),
        (b"1::\xe9 a::x\n2::A::x\n3::\xc3\xa9::x\n", r"movies\.dat:1: is not UTF-8, but .*movies\.dat:3 is"),
        # a dash of Windows-1252
        (b"1::A::x\n2::\xe9 \x96 a::x\n", r"movies\.dat:2: byte 6 is 0x96: neither UTF-8 nor Latin-1 text; convert"),
        (b"1::A::x\n2::\xe9 \x00 a::x\n", r"movies\.dat:2: byte 6 is 0x00: neither"),
        (b"1::A::x\n2::B::\xc3", r"movies\.dat:2: the file ends within a character"),
        ("1::A::x\n".encode("utf-16"), r"movies\.dat: UTF-16 text; convert it to UTF-8"),
    ],
)
def test_an_encoding_that_is_neither_is_named(tmp_path: Path, data: bytes, message: str) -> None:
    (tmp_path / "movies.dat").write_bytes(data)
    with pytest.raises(CatalogueError, match=message):
        load_catalogue(tmp_path, "movielens", progress=False, on_error="skip")


def test_a_last_line_without_a_break_is_told(tmp_path: Path) -> None:
    """A timestamp that is cut off is a timestamp too."""
    (tmp_path / "movies.dat").write_text("1::A::x\n")
    (tmp_path / "ratings.dat").write_text("7::1::5::978300760\n8::1::5::9783")
    _, report = load_catalogue(tmp_path, "movielens", progress=False)
    (note,) = report.lines()
    assert note.startswith(f"{tmp_path}/ratings.dat:2: the file ends without a line break")


def test_empty_genres_are_no_categories(tmp_path: Path) -> None:
    (tmp_path / "movies.dat").write_text("1::A::x||y|\n")
    (item,) = movielens.read_items(tmp_path / "movies.dat", ReadLog())
    assert item.categories == ("x", "y")
