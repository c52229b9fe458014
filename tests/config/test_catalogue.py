"""Settings of a catalogue: where its paths start, what a load does about errors, and what it tells."""

import json
import logging
import pwd
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from rcjax.config import CatalogueSettings, load_settings, read_catalogue


def deployment(folder: Path, paths: str, **more: str) -> Path:
    path = folder / "deployment.yaml"
    settings = {"format": "jsonl", "paths": paths} | more
    path.write_text("catalogue:\n" + "".join(f"  {key}: {value}\n" for key, value in settings.items()))
    return path


def write_items(path: Path, *records: dict[str, object]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(record) + "\n" for record in records))
    return path


def test_paths_are_relative_to_the_file_that_has_them(tmp_path, monkeypatch):
    write_items(tmp_path / "conf" / "data" / "items.jsonl", {"item_id": "a", "title": "A"})
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    absolute = f"{{folder: {tmp_path}/conf/data}}"
    for paths in ("{items: data/items.jsonl}", "{folder: data}", "{folder: ../conf/data}", absolute):
        path = deployment(tmp_path / "conf", paths)
        monkeypatch.chdir(elsewhere)
        assert list(read_catalogue(load_settings(path).catalogue).items) == ["a"]
        monkeypatch.chdir(tmp_path / "conf")
        settings = load_settings(Path("deployment.yaml"))
        monkeypatch.chdir(elsewhere)  # what was loaded does not move with the working directory
        assert list(read_catalogue(settings.catalogue).items) == ["a"]


def test_a_tilde_is_a_home_directory(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    settings = load_settings(deployment(tmp_path, "{items: ~/data/items.jsonl, events: a~b.jsonl}"))
    assert settings.catalogue.paths == {
        "items": tmp_path / "home" / "data" / "items.jsonl",
        "events": tmp_path / "a~b.jsonl",
    }


@pytest.mark.parametrize("tilde", ["~", "~nobody-of-this-name"])
def test_a_tilde_without_a_home_is_one_line(tmp_path, monkeypatch, tilde):
    monkeypatch.delenv("HOME", raising=False)
    monkeypatch.setattr(pwd, "getpwuid", lambda number: {}[number])
    path = deployment(tmp_path, f"{{items: {tilde}/items.jsonl}}")
    with pytest.raises(ValueError, match=r"catalogue\.paths\.items: '~.*its home directory is not known") as caught:
        load_settings(path)
    assert str(caught.value).startswith(f"{path}: ")
    assert "\n" not in str(caught.value)


def test_errors_stop_a_load_or_are_skipped_and_told(tmp_path, caplog):
    path = write_items(tmp_path / "items.jsonl", {"item_id": "a", "title": "A", "price": "ask us"}, {"title": "B"})
    with pytest.raises(ValueError, match=r"items\.jsonl:2: field 'item_id': missing"):
        read_catalogue(CatalogueSettings(format="jsonl", paths={"items": path}), progress=False)
    settings = load_settings(deployment(tmp_path, "{folder: .}", on_error="skip")).catalogue
    told: list[str] = []
    assert list(read_catalogue(settings, progress=False, tell=told.append).items) == ["a"]
    assert [line.split(":")[0].strip() for line in told] == [
        "left out 1 record with an error",
        str(path),
        f"left out 1 price that is not clear, such as {path}",
    ]
    with caplog.at_level(logging.WARNING):
        read_catalogue(settings, progress=False)
    assert [record.getMessage() for record in caplog.records] == told


def test_columns_and_a_pattern_of_shards_come_from_the_file(tmp_path):
    (tmp_path / "data").mkdir()
    for split, title in (("train", "A"), ("test", "B")):
        pq.write_table(
            pa.table({"asin": ["a"], "name": [title]}), tmp_path / "data" / f"{split}-00000-of-00001.parquet"
        )
    named = {"format": "parquet", "columns": "{items: {item_id: asin, title: name}}"}
    settings = load_settings(deployment(tmp_path, "{items: data/train-*.parquet}", **named))
    assert [item.title for item in read_catalogue(settings.catalogue).items.values()] == ["A"]
    with pytest.raises(ValueError, match="several splits"):
        read_catalogue(load_settings(deployment(tmp_path, "{items: data}", **named)).catalogue)
    wrong = deployment(tmp_path, "{items: data}", format="parquet", columns="{item: {title: name}}")
    with pytest.raises(ValueError, match=r"catalogue\.columns\.item\b"):
        load_settings(wrong)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"format": "csv"}, r"catalogue\.format='csv' is unknown; choose one of embedded, jsonl"),
        ({"format": "jsonl"}, r"catalogue\.paths has \[\]; give `folder`, or `items`"),
        ({"format": "jsonl", "paths": {"items": "a", "folder": "b"}}, r"catalogue\.paths has \['folder', 'items'\]"),
        ({"columns": {"items": {"title": "name"}}}, r"catalogue\.columns is for files, and the embedded shop has none"),
    ],
)
def test_what_names_no_catalogue_is_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        read_catalogue(CatalogueSettings(**settings))
