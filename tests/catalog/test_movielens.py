"""MovieLens files, written here in both of their layouts."""

from pathlib import Path

import pytest

from rcjax.catalog import CatalogueError, Item, load_catalogue, movielens

DAT_MOVIES = "1::Toy Story (1995)::Animation|Children's|Comedy\n2::Café (1996)::Drama\n"
CSV_MOVIES = (
    "movieId,title,genres\n"
    '1,Toy Story (1995),Animation|Children|Comedy\n11,"American President, The (1995)",(no genres listed)\n'
)


def test_dat_is_latin_1(tmp_path: Path) -> None:
    (tmp_path / "movies.dat").write_bytes(DAT_MOVIES.encode("latin-1"))
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
        ("movies.csv", "movieId,name,genres\n", r"movies\.csv:1: field 'title': not in the header"),
        ("movies.csv", "movieId,title,genres\n1,A\n", r"movies\.csv:2: expected 3 fields .* got 2"),
        ("movies.csv", 'movieId,title,genres\n1,"A,x\n', r"movies\.csv:2: not CSV"),
    ],
)
def test_a_bad_movie_is_named(tmp_path: Path, name: str, text: str, message: str) -> None:
    (tmp_path / name).write_text(text)
    with pytest.raises(CatalogueError, match=message):
        list(movielens.read_items(tmp_path / name))


def test_a_bad_rating_is_named(tmp_path: Path) -> None:
    (tmp_path / "ratings.dat").write_text("1::1::5::978300760\n1::2::five::978300760\n")
    with pytest.raises(CatalogueError, match=r"ratings\.dat:2: field 'rating': expected a number, got 'five'"):
        list(movielens.read_events(tmp_path / "ratings.dat"))
