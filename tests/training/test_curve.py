"""The curve's file: whole after a kill, and damage named."""

import os
from dataclasses import replace

import pytest

from rcjax.training.curve import CurvePoint, curve_until, write_curve

POINTS = [CurvePoint(step, 1.5 * step, 1 / step, 0.1 * step) for step in (2, 4, 6)]


def test_what_is_written_is_read_up_to_the_checkpoint(tmp_path):
    path = tmp_path / "curve.jsonl"
    assert curve_until(path, 9) == []
    write_curve(path, POINTS)
    assert curve_until(path, 6) == POINTS
    assert curve_until(path, 5) == POINTS[:2]
    assert [file.name for file in tmp_path.iterdir()] == ["curve.jsonl"]


def test_a_kill_while_it_is_written_leaves_the_old_curve(tmp_path, monkeypatch):
    path = tmp_path / "curve.jsonl"
    write_curve(path, POINTS[:1])

    def killed(descriptor):
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "fsync", killed)
    with pytest.raises(KeyboardInterrupt):
        write_curve(path, POINTS)
    assert curve_until(path, 9) == POINTS[:1]


@pytest.mark.parametrize(
    "line",
    [b'{"step": 4, "train_s": 25.2', b"", b"[1]", b'{"step": 4}', b"\xff", b"[" * 20_000],
    ids=["cut", "empty", "list", "fields", "bytes", "deep"],
)
def test_damage_is_named_with_its_line(tmp_path, line):
    path = tmp_path / "curve.jsonl"
    write_curve(path, [POINTS[0], replace(POINTS[1], loss=float("nan"))])
    path.write_bytes(path.read_bytes() + line + b"\n")
    with pytest.raises(ValueError, match=r"curve\.jsonl, line 3: not a point of a training curve; remove the line"):
        curve_until(path, 9)
