"""What is left of an engine that was closed: no threads, no weights, no pages, so that there is room for another."""

import gc
import threading
from pathlib import Path

import jax
import pytest
from tiny_engine import SEQUENTIAL, item
from tiny_folder import folder_settings

from rcjax.config import ArmSettings, MeshSettings, Settings, ShapeSettings
from rcjax.errors import UnavailableError
from rcjax.request import RecommendRequest
from rcjax.serving.startup import start_engine


def settings_of(folder: Path, **changed: object) -> Settings:
    """The engine loads the model itself: one that it is given would be its caller's to hold."""
    arms = {"one": ArmSettings(**SEQUENTIAL)}
    shapes = ShapeSettings(rank=((128, 32),), build=((128, 8),))
    return folder_settings(folder, arms=arms, default_arm="one", shapes=shapes, **changed)


def live_bytes() -> int:
    return sum(array.nbytes for array in jax.live_arrays())


@pytest.mark.parametrize("slices", [1, 2])
def test_threads_weights_and_pages_go_while_the_engine_is_still_named(tmp_path: Path, slices: int) -> None:
    settings = settings_of(tmp_path, mesh=MeshSettings(slices=slices))
    gc.collect()  # of what other tests left; nobody collects what an engine leaves
    threads, before = set(threading.enumerate()), live_bytes()
    engine = start_engine(settings)
    engine.put_items([item(1), item(2)])
    (result,) = engine.recommend([RecommendRequest(("i1", "i2"), history=())])
    assert len(result.ranking) == 2
    assert live_bytes() >= before + engine.stats().pool_bytes > before
    assert set(threading.enumerate()) > threads
    engine.close()
    assert set(threading.enumerate()) == threads
    assert live_bytes() == before
    with pytest.raises(UnavailableError, match="stopping"):
        engine.put_items([item(3)])
    engine.close()


def test_a_with_closes(tmp_path: Path) -> None:
    threads = set(threading.enumerate())
    with start_engine(settings_of(tmp_path)):
        assert set(threading.enumerate()) > threads
    assert set(threading.enumerate()) == threads
