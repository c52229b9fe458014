"""Nothing is compiled after warm-up, and the counter that says so can count."""

import subprocess
import sys

import jax
import numpy as np
import pytest
from tiny_engine import ARMS, event, item, together

from rcjax.catalog.types import User
from rcjax.engine.compilation import CompilationCounter
from rcjax.request import RecommendRequest


@pytest.fixture(scope="module")
def counter():
    """One for the process, as JAX keeps it for ever."""
    return CompilationCounter()


def test_no_call_compiles_after_warm_up(engine, counter, monkeypatch):
    counter.start()
    shapes, build_shapes = set(), set()
    rank, build = engine.executor.rank, engine.executor.build
    engine.executor.rank = lambda batch, shape: shapes.add(shape) or rank(batch, shape)
    engine.executor.build = lambda batch, *to: build_shapes.add(batch.token_ids.shape[1]) or build(batch, *to)
    # Fewer tokens first, so that every shape gets its turn whatever the passes of earlier tests happened to take.
    for one in (engine.parts.rank_shapes, engine.parts.shapes["build"]):
        monkeypatch.setattr(one, "seconds", lambda shape: shape.fresh_tokens + shape.num_pages / 1024)
    engine.put_items([item(i, num_words=1 + i % 6) for i in range(40)])
    engine.put_items([item(0, text="new")])
    engine.put_user(User("u"))
    engine.put_user(User("v", (event(1), event(2))))
    for i in range(12):
        engine.append_events("u", [event(i)])
    for arm in ARMS:
        for num_candidates in (1, 3, 8):
            known = RecommendRequest(tuple(f"i{i}" for i in range(num_candidates)), "u", arm=arm)
            missing = RecommendRequest(
                (item(100 + num_candidates, text=arm),), history=(event(num_candidates),), arm=arm
            )
            engine.recommend([known])
            together(engine, [known, missing, known])
    for arm in ("sequential_label_blocks", "parallel_label_blocks", "parallel_anchor_blocks_boundary"):
        engine.recommend([RecommendRequest(tuple(f"i{i}" for i in range(40)), "v", arm=arm)])
    engine.delete_items(["i0"])
    engine.delete_user("v")
    assert shapes == set(engine.parts.rank_shapes), "every shape was used"
    assert build_shapes == {48, 128}
    assert counter() == 0


def test_the_counter_counts(counter):
    counter.start()
    jax.jit(lambda x: x * 3 + 1)(np.arange(7))
    assert counter() == 1


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
