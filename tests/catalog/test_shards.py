"""Tables of several files: shards as the Hub names them, folders of `save_to_disk`, and what is refused."""

import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from rcjax.catalog import CatalogueError, CataloguePaths, load_catalogue
from rcjax.catalog.parquet import read_items
from rcjax.catalog.report import ReadLog


def table(*ids: str) -> pa.Table:
    return pa.table({"item_id": ids, "title": [name.upper() for name in ids]})


def ids_of(path: Path) -> list[str]:
    catalogue, _ = load_catalogue(CataloguePaths(path), "parquet", progress=False)
    assert all(item.title == item.item_id.upper() for item in catalogue.items.values())
    return list(catalogue.items)


def write_shards(folder: Path, *names: str) -> Path:
    """A row in each, called after the place of the file's name here."""
    folder.mkdir(parents=True, exist_ok=True)
    for number, name in enumerate(names):
        pq.write_table(table("abcdef"[number]), folder / name)
    return folder


def save_to_disk(folder: Path, *parts: pa.Table) -> Path:
    """What `datasets.Dataset.save_to_disk` writes, with a shard for each part."""
    folder.mkdir(parents=True)
    names = [f"data-{number:05}-of-{len(parts):05}.arrow" for number in range(len(parts))]
    for name, part in zip(names, parts, strict=True):
        with pa.OSFile(str(folder / name), "wb") as sink, pa.ipc.new_stream(sink, part.schema) as stream:
            stream.write_table(part, max_chunksize=2)
    state = {"_data_files": [{"filename": name} for name in names], "_fingerprint": "0123", "_split": "train"}
    (folder / "state.json").write_text(json.dumps(state))
    (folder / "dataset_info.json").write_text("{}")
    return folder


def test_shards_are_read_in_order_of_their_numbers(tmp_path: Path) -> None:
    names = ("train-00000-of-00003-0a1b2c.parquet", "train-00001-of-00003-ffee00.parquet")
    folder = write_shards(tmp_path / "data", *names, "train-00002-of-00003-000000.parquet")
    (folder / "README.md").write_text("a card")
    assert ids_of(folder) == ["a", "b", "c"]
    assert ids_of(folder / "train-*.parquet") == ["a", "b", "c"]
    assert ids_of(folder / names[1]) == ["b"]


def test_shards_of_the_cache_of_datasets_are_streams(tmp_path: Path) -> None:
    saved = save_to_disk(tmp_path / "saved", table("a", "b", "c"), table("d"))
    folder = tmp_path / "cache"
    folder.mkdir()
    for number in range(2):
        shard = f"{number:05}-of-00002.arrow"
        (saved / f"data-{shard}").rename(folder / f"shop-train-{shard}")
    assert ids_of(folder) == ids_of(folder / "shop-train-*.arrow") == ["a", "b", "c", "d"]


def test_numbered_files_and_a_lone_one_are_tables(tmp_path: Path) -> None:
    assert ids_of(write_shards(tmp_path / "converted", *(f"{n:04}.parquet" for n in range(3)))) == ["a", "b", "c"]
    assert ids_of(write_shards(tmp_path / "lone", "anything.parquet")) == ["a"]


def test_splits_are_never_mixed(tmp_path: Path) -> None:
    splits = ("train-00000-of-00001.parquet", "test-00000-of-00001.parquet")
    folder = write_shards(tmp_path / "data", *splits)
    message = rf"data: holds several splits \(test, train\); name one, such as {folder}/test-\*\.parquet"
    with pytest.raises(CatalogueError, match=message):
        ids_of(folder)
    with pytest.raises(CatalogueError, match="several splits"):
        ids_of(folder / "t*.parquet")
    assert ids_of(folder / "train-*.parquet") == ["a"]
    assert ids_of(folder / "test-*.parquet") == ["b"]


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (["train-00000-of-00003.parquet", "train-00002-of-00003.parquet"], "shard 00001 of 00003 is missing; copy"),
        (["train-00000-of-00002.parquet"], "shard 00001 of 00002 is missing"),
        (["t-00000-of-00001-aa.parquet", "t-00000-of-00001-bb.parquet"], "shards of several tables: .*keep those of"),
        (["t-00000-of-00001.parquet", "t-00000-of-00002.parquet"], "shards of several tables"),
        (["0000.parquet", "0002.parquet"], r"0002\.parquet is there where shard 1 is expected"),
        (["items.parquet", "events.parquet"], r"events\.parquet, items\.parquet are not named as shards of one table"),
        (["train-00000-of-00001.parquet", "x.parquet"], "are not named as shards of one table"),
        (["data/train-00000-of-00001.parquet"], "no Parquet or Arrow files there; name one of its folders: data"),
    ],
)
def test_what_is_not_one_whole_table_is_refused(tmp_path: Path, names: list[str], message: str) -> None:
    for name in names:
        write_shards((tmp_path / name).parent, Path(name).name)
    with pytest.raises(CatalogueError, match=message):
        ids_of(tmp_path)


def test_shards_of_different_columns_are_no_table(tmp_path: Path) -> None:
    write_shards(tmp_path, "train-00000-of-00002.parquet")
    second = tmp_path / "train-00001-of-00002.parquet"
    pq.write_table(table("b").append_column("price", [[1.0]]), second)
    with pytest.raises(CatalogueError, match=rf"00000-of-00002\.parquet: no column 'price', which {second} has"):
        ids_of(tmp_path)


def test_an_error_names_the_shard_and_its_row(tmp_path: Path) -> None:
    write_shards(tmp_path, "train-00000-of-00002.parquet")
    bad = pa.table({"item_id": ["b", None], "title": ["B", "C"]})
    pq.write_table(bad, tmp_path / "train-00001-of-00002.parquet")
    with pytest.raises(CatalogueError, match=r"train-00001-of-00002\.parquet: row 2: field 'item_id': missing"):
        ids_of(tmp_path)
    catalogue, report = load_catalogue(CataloguePaths(tmp_path), "parquet", progress=False, on_error="skip")
    assert (list(catalogue.items), report.num_errors) == (["a", "b"], 1)


def test_what_save_to_disk_wrote_is_read(tmp_path: Path) -> None:
    folder = save_to_disk(tmp_path / "saved", table("a", "b", "c"), table("d"))
    (folder / "cache-0123.arrow").write_bytes(b"of a map() that was not saved")
    assert ids_of(folder) == ["a", "b", "c", "d"]
    assert ids_of(folder / "data-00001-of-00002.arrow") == ["d"]


def test_a_saved_dictionary_of_splits(tmp_path: Path) -> None:
    save_to_disk(tmp_path / "train", table("a"))
    (tmp_path / "dataset_dict.json").write_text('{"splits": ["train"]}')
    assert ids_of(tmp_path) == ["a"]
    save_to_disk(tmp_path / "test", table("b"))
    (tmp_path / "dataset_dict.json").write_text('{"splits": ["train", "test"]}')
    with pytest.raises(CatalogueError, match=rf"several splits \(test, train\); name one, such as {tmp_path}/test"):
        ids_of(tmp_path)
    assert ids_of(tmp_path / "test") == ["b"]


@pytest.mark.parametrize(
    ("state", "message"),
    [
        ("{", r"state\.json: not JSON"),
        ("[]", r"state\.json: expected a JSON object"),
        ('{"_data_files": []}', r"state\.json: field '_data_files': expected a list of file names"),
        ('{"_data_files": [{"filename": "../secret.arrow"}]}', "expected a list of file names"),
        ('{"_data_files": [{"filename": "gone.arrow"}]}', r"gone\.arrow: no such file"),
        ('{"_data_files": [], "_indices_data_files": [{"filename": "i.arrow"}]}', r"save it after flatten_indices\(\)"),
    ],
)
def test_a_damaged_state_is_named(tmp_path: Path, state: str, message: str) -> None:
    folder = save_to_disk(tmp_path / "saved", table("a"))
    (folder / "state.json").write_text(state)
    with pytest.raises(CatalogueError, match=message):
        ids_of(folder)


def test_a_cut_stream_is_noticed_wherever_it_is_cut(tmp_path: Path) -> None:
    """Arrow itself takes the end of a file between two batches for the end of the table."""
    path = save_to_disk(tmp_path / "saved", table("a", "b", "c", "d")) / "data-00000-of-00001.arrow"
    data = path.read_bytes()
    assert len(ids_of(path)) == 4
    for size in range(0, len(data), 7):
        path.write_bytes(data[:size])
        with pytest.raises(CatalogueError, match=r"data-00000-of-00001\.arrow: "):
            ids_of(path)


def test_another_arrow_format_is_named(tmp_path: Path) -> None:
    path = tmp_path / "items.arrow"
    with pa.OSFile(str(path), "wb") as sink, pa.ipc.new_file(sink, table("a").schema) as file:
        file.write_table(table("a"))
    with pytest.raises(CatalogueError, match=r"items\.arrow: no end of an Arrow stream: it is cut off, or another"):
        list(read_items(path, ReadLog()))
