"""The demo on a mesh, on a tiny model and two fake devices."""

import re
from io import StringIO

import pytest
from rich.console import Console
from tiny_engine import TEMPLATE, tiny_model, tiny_settings

from rcjax.commands.mesh_demo import run_mesh_demo
from rcjax.config import ArmSettings, CacheSettings, Limits, MeshSettings, ShapeSettings
from rcjax.prompt import Layout, Scoring


@pytest.fixture
def settings(tmp_path):
    """A tiny model that reads the beginnings of the embedded shop's titles, on two slices that share the items."""
    titles = TEMPLATE.replace("{% if description %}, {{ description }}{% endif %}", "")
    (tmp_path / "titles.yaml").write_text(titles.replace("{{ title }}", "{{ title[:8] }}"), encoding="utf-8")
    return tiny_settings(
        tmp_path,
        template=str(tmp_path / "titles.yaml"),
        mesh=MeshSettings(slices=2, placement="hash"),
        cache=CacheSettings(page_tokens=16, pool_bytes=2**23),
        limits=Limits(max_candidates=20, max_item_tokens=32, max_history_tokens=384),
        arms={"parallel": ArmSettings(layout=Layout.PARALLEL, scoring=Scoring.ANCHOR)},
        default_arm="parallel",
        shapes=ShapeSettings(rank=((128, 64),), build=((384, 8),)),
    )


def test_it_shows_which_slice_answered_and_where_its_blocks_came_from(settings):
    console = Console(file=StringIO(), width=160)
    run_mesh_demo(console, settings, 6, model=tiny_model())
    printed = console.file.getvalue()
    assert "a mesh of 2 slices, each with one device" in printed
    assert "tiny loaded and compiled for 2 x 1 devices" in printed
    num_built = int(re.search(r"120 items and 12 shoppers cached: (\d+) blocks computed", printed)[1])
    assert 120 + 12 <= num_built <= 120 + 2 * 12, "shoppers stand on both slices, computed or copied; items on one"
    assert "\n0 compilations after start-up" in printed
    rows = [[cell.strip() for cell in line.split("│")[1:-1]] for line in printed.splitlines() if line.startswith("│")]
    requests, slices = rows[:6], rows[6:]
    assert [row[0] for row in requests] == ["1", "2", "3", "4", "5", "6"]
    assert {row[1] for row in requests} <= {"0", "1"}
    for row in requests:
        had, fetched, kept, computed, fresh = (int(cell.replace(",", "")) for cell in row[2:7])
        assert had > 0, "the instruction, the history and half of the items"
        assert fetched + computed > 0, "the other half"
        assert (kept, fresh) == (0, 20 * 5), "no tiers; five tokens close an item"
    assert [row[0] for row in slices] == ["0", "1"]
    assert sum(int(row[1]) for row in slices) == 6
