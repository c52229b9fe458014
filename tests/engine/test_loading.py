"""`rcjax.load`: from a checkpoint and a catalogue to rankings, in one call."""

import json
import logging
import subprocess
import sys
import threading
from dataclasses import asdict
from pathlib import Path

import pytest
import yaml
from tiny_engine import TEMPLATE, event, item
from tiny_folder import folder_settings, tiny_folder

import rcjax
from rcjax.catalog.types import Catalogue, User
from rcjax.config import ArmSettings, Settings, ShapeSettings
from rcjax.prompt import Scoring
from rcjax.request import RecommendRequest
from rcjax.serving import loading

SHOP = Catalogue({f"i{n}": item(n) for n in range(3)}, {"u": User("u", (event(0), event(1)))})
REQUEST = RecommendRequest(("i0", "i1", "i2"), "u")
ARMS = {"first": ArmSettings(), "second": ArmSettings(scoring=Scoring.ANCHOR)}


@pytest.fixture(scope="module")
def settings(tmp_path_factory: pytest.TempPathFactory) -> Settings:
    shapes = ShapeSettings(rank=((64, 32),), build=((128, 8),))
    return folder_settings(tmp_path_factory.mktemp("load"), arms=ARMS, default_arm="first", shapes=shapes)


def test_a_catalogue_is_there_when_it_returns(settings: Settings, capsys: pytest.CaptureFixture[str]) -> None:
    with rcjax.load(config=settings, catalogue=SHOP) as engine:
        assert (engine.stats().num_items, engine.stats().num_users) == (3, 1)
        (result,) = engine.recommend([REQUEST])
        assert {ranked.item_id for ranked in result.ranking} == set(SHOP.items)
        assert (result.arm, result.tokens.built) == ("first", 0)
    said = capsys.readouterr().out
    assert "caching items" in said
    assert "compiling" in said


def test_files_say_the_same_as_values(settings: Settings, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A settings file, a folder's catalogue, and what the call says instead of the file."""
    (tmp_path / "tiny.yaml").write_text(TEMPLATE, encoding="utf-8")
    for name, things in (("items", SHOP.items), ("users", SHOP.users)):
        lines = [json.dumps(asdict(thing)) for thing in things.values()]
        (tmp_path / f"{name}.jsonl").write_text("\n".join(lines), encoding="utf-8")
    file = settings.model_dump(mode="json", exclude={"model", "template", "snapshot"})
    (tmp_path / "shop.yaml").write_text(yaml.safe_dump(file), encoding="utf-8")
    model = tiny_folder(tmp_path / "model")
    template = tmp_path / "tiny.yaml"
    with rcjax.load(config=settings, catalogue=SHOP, progress=False) as engine:
        (expected,) = engine.recommend([REQUEST])
    capsys.readouterr()
    with rcjax.load(
        model,
        config=str(tmp_path / "shop.yaml"),
        catalogue=str(tmp_path),
        template=template,
        arms=dict(reversed(ARMS.items())),
        progress=False,
    ) as engine:
        assert (engine.info().arms, engine.info().default_arm) == (("second", "first"), "second")
        (result,) = engine.recommend([RecommendRequest(REQUEST.candidates, "u", arm="first")])
    assert result.ranking == expected.ranking
    assert capsys.readouterr() == ("", "")


def test_an_engine_may_start_empty(settings: Settings) -> None:
    with rcjax.load(config=settings, put=False, default_arm="second", progress=False) as engine:
        assert (engine.stats().num_items, engine.info().default_arm) == (0, "second")
    with pytest.raises(ValueError, match="put=False"):
        rcjax.load(config=settings, put=False, catalogue=SHOP)


def test_what_is_left_out_is_told_without_progress_too(settings: Settings, caplog: pytest.LogCaptureFixture) -> None:
    long = item(9, text="very long " * 30)
    shop = Catalogue({**SHOP.items, long.item_id: long}, {})
    with caplog.at_level(logging.WARNING), rcjax.load(config=settings, catalogue=shop, progress=False) as engine:
        assert engine.stats().num_items == 3
    assert any("1 items or users left out" in message for message in caplog.messages)


def test_no_threads_stay_of_what_cannot_be_filled(settings: Settings) -> None:
    threads = set(threading.enumerate())
    with pytest.raises(ValueError, match="no items"):
        rcjax.load(config=settings, catalogue=Catalogue({}, {}), progress=False)
    assert set(threading.enumerate()) == threads


@pytest.mark.parametrize(
    ("call", "problem"),
    [
        ({"default_arm": "third"}, "third"),
        ({"catalogue": "nowhere"}, "nowhere"),
        ({"model": "./nowhere"}, "nowhere"),
        ({"template": "unknown"}, "unknown"),
        ({"adapter": "./nowhere"}, "nowhere"),
        ({"config": "nowhere.yaml"}, "nowhere.yaml"),
    ],
)
def test_mistakes_are_named(settings: Settings, call: dict[str, str], problem: str) -> None:
    with pytest.raises((ValueError, OSError), match=problem):
        rcjax.load(**({"config": settings, "progress": False} | call))


@pytest.mark.parametrize(
    ("named", "expected"),
    [("embedded", ("jsonl", {"folder": Path("data")})), ("yelp", ("yelp", {"folder": Path("data")}))],
)
def test_a_folder_has_the_format_of_the_settings(named: str, expected: object) -> None:
    settings = Settings(catalogue={"format": named})
    found = loading._with_folder(settings, Path("data")).catalogue
    assert (found.format, found.paths) == expected


def test_importing_is_light_and_dir_is_the_public_names() -> None:
    code = (
        "import sys, rcjax; print(sorted(set(sys.modules) & {'jax', 'numpy', 'pandas', 'grpc', 'rich'}));"
        "print(sorted(dir(rcjax)) == sorted(rcjax.__all__))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split("\n") == ["[]", "True", ""]


def test_every_public_name_is_there() -> None:
    assert all(getattr(rcjax, name) is not None for name in rcjax.__all__)
