"""Nothing is compiled after warm-up, and the counter that says so can count."""

import subprocess
import sys

import jax
import numpy as np
import pytest
from tiny_engine import ARMS, event, item, tiny_engine

from rcjax.catalog.types import User
from rcjax.request import RecommendRequest


@pytest.fixture(scope="module")
def started(settings):
    """Untouched since start-up, unlike the engine that other tests share."""
    return tiny_engine(settings.compilation_cache_dir().parent)


def test_no_call_compiles_after_warm_up(started):
    assert started.stats().num_compilations == 0
    shapes, build_shapes = set(), set()
    rank, build = started.slice.rank, started.slice.build
    started.slice.rank = lambda batch: shapes.add((*batch.token_ids.shape, batch.pages.table.shape[1])) or rank(batch)
    started.slice.build = lambda batch, *to: build_shapes.add(batch.token_ids.shape[1]) or build(batch, *to)
    started.put_items([item(i, num_words=1 + i % 6) for i in range(40)])
    started.put_items([item(0, text="new")])
    started.put_user(User("u"))
    started.put_user(User("v", (event(1), event(2))))
    for i in range(12):
        started.append_events("u", [event(i)])
    for arm in ARMS:
        for num_candidates in (1, 3, 8):
            known = RecommendRequest(tuple(f"i{i}" for i in range(num_candidates)), "u", arm=arm)
            missing = RecommendRequest(
                (item(100 + num_candidates, text=arm),), history=(event(num_candidates),), arm=arm
            )
            started.recommend([known])
            started.recommend([known, missing, known])
    for arm in ("sequential_label_blocks", "parallel_label_blocks", "parallel_anchor_blocks_boundary"):
        started.recommend([RecommendRequest(tuple(f"i{i}" for i in range(40)), "v", arm=arm)])
    started.delete_items(["i0"])
    started.delete_user("v")
    assert shapes == {(s.batch, s.fresh_tokens, s.num_pages) for s in started.rank_shapes}, "every shape was used"
    assert build_shapes == {48, 128}
    assert started.stats().num_compilations == 0


def test_the_counter_counts(started):
    before = started.stats().num_compilations
    jax.jit(lambda x: x * 3 + 1)(np.arange(7))
    assert started.stats().num_compilations == before + 1


def test_programs_are_kept_on_disk_even_if_jax_was_used_before(tmp_path):
    script = """
import sys, pathlib, jax
from rcjax.engine.compilation import use_compilation_cache
jax.jit(lambda x: x + 1)(1.0)
use_compilation_cache(pathlib.Path(sys.argv[1]))
jax.jit(lambda x: x * 2)(1.0)
"""
    subprocess.run([sys.executable, "-c", script, str(tmp_path)], check=True)
    assert list(tmp_path.iterdir())
