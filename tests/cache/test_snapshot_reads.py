"""Reads of a snapshot's values straight into buffers: what is there arrives, and what is not is told."""

import numpy as np
import pytest

from rcjax.cache.snapshot import SnapshotStore

NAME = "segments/one"
VALUE = np.random.default_rng(0).integers(0, 256, 20_000, np.uint8).tobytes()


@pytest.fixture(params=["folder", "memory"])
def store(request, tmp_path):
    store = SnapshotStore(tmp_path if request.param == "folder" else "memory://snapshots")
    (tmp_path / "segments").mkdir()
    store.write(NAME, VALUE)
    return store


def buffers_of(lengths):
    return [memoryview(bytearray(b"?" * length)) for length in lengths]


@pytest.mark.parametrize("lengths", [[1], [7, 1, 1000], [5] * 3000])
@pytest.mark.parametrize("start", [0, 1234])
def test_buffers_are_filled_one_after_another(store, lengths, start):
    """More of them too than one system call fills."""
    buffers = buffers_of(lengths)
    assert store.read_into(NAME, start, buffers)
    assert b"".join(buffers) == VALUE[start : start + sum(lengths)]


@pytest.mark.parametrize(
    ("name", "start", "lengths"),
    [
        (NAME, len(VALUE) - 9, [4, 6]),
        (NAME, 10, [5] * 4000),
        (NAME, len(VALUE) + 1, [1]),
        ("segments/other", 0, [1]),
    ],
)
def test_a_value_that_ends_before_is_not_taken_for_whole(store, name, start, lengths):
    assert not store.read_into(name, start, buffers_of(lengths))
