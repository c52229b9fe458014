"""Lets tests here use the tiny engine of the engine's tests with its fixtures, and the fake router of serving's."""

import sys
from io import StringIO
from pathlib import Path

import pytest
from rich.console import Console

from rcjax.config import ArmSettings, CacheSettings, Limits, Settings, ShapeSettings
from rcjax.prompt import Layout, Reuse, Scoring

for folder in ("engine", "serving"):
    sys.path.insert(0, str(Path(__file__).parents[1] / folder))

from engine_fixtures import closing, compiled, engine, settings  # noqa: E402, F401
from tiny_engine import TEMPLATE, tiny_settings  # noqa: E402

ARMS = {
    "rcjax": ArmSettings(selection="boundary(first=4)"),
    "parallel": ArmSettings(layout=Layout.PARALLEL, scoring=Scoring.ANCHOR),
    "prefix": ArmSettings(reuse=Reuse.PREFIX),
    "full": ArmSettings(reuse=Reuse.NONE),
}


@pytest.fixture(scope="session")
def shop_settings(tmp_path_factory) -> Settings:
    """A tiny model that reads the beginnings of the embedded shop's titles, letter by letter."""
    folder = tmp_path_factory.mktemp("shop")
    titles = TEMPLATE.replace("{% if description %}, {{ description }}{% endif %}", "")
    titles = titles.replace("{{ title }}", "{{ title[:8] }}")
    (folder / "titles.yaml").write_text(titles, encoding="utf-8")
    return tiny_settings(
        folder,
        template=str(folder / "titles.yaml"),
        cache=CacheSettings(page_tokens=16, pool_bytes=2**24),
        limits=Limits(max_candidates=20, max_item_tokens=32, max_history_tokens=384),
        arms=ARMS,
        default_arm="rcjax",
        shapes=ShapeSettings(rank=((64, 64), (192, 64), (512, 32), (768, 0)), build=((384, 8),)),
    )


@pytest.fixture
def console() -> Console:
    return Console(file=StringIO(), width=160)
