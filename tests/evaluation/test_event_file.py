"""Scalars of an evaluation as TensorBoard reads them, and files that cannot be had."""

import struct
import sys

import pytest
from event_reader import scalars_of
from full_disk import full_disk

from rcjax.disk import DiskError
from rcjax.evaluation.event_file import EventFile, check_events, write_summaries
from rcjax.evaluation.ranking import METRICS, Rank
from rcjax.evaluation.summary import ArmSummary, Estimate, TokenShares


def arm(ndcg: float, ttft_ms: dict[str, float]) -> ArmSummary:
    metrics = dict.fromkeys(METRICS, Estimate(ndcg, ndcg - 0.02, ndcg + 0.02))
    tokens = TokenShares(fresh=1.0, probed=0.0, selected=0.0, built=0.0, semantic=0.0)
    return ArmSummary(None, 0, metrics, None, None, tokens, ttft_ms, None, (Rank(1, 1),))


def test_every_arms_metrics_and_times_are_shown_and_of_the_last_evaluation(tmp_path):
    for ndcg in (0.25, 0.5):
        arms = {"full": arm(0.75, {"p50": 400.0, "p99": 500.0}), "my/arm": arm(ndcg, {"p50": 20.0, "p99": 30.5})}
        write_summaries(tmp_path, arms)
    assert len(list(tmp_path.iterdir())) == 2
    expected = {f"{metric}/full": [(0, 0.75)] for metric in METRICS}
    expected |= {f"{metric}/my/arm": [(0, 0.5)] for metric in METRICS}
    expected |= {"ttft_p50_ms/full": [(0, 400.0)], "ttft_p99_ms/full": [(0, 500.0)]}
    expected |= {"ttft_p50_ms/my/arm": [(0, 20.0)], "ttft_p99_ms/my/arm": [(0, 30.5)]}
    assert scalars_of(tmp_path) == expected


def test_what_is_added_is_on_disk_and_whole_before_the_file_is_closed(tmp_path):
    events = EventFile(tmp_path, first_step=1)
    events.add(1, {"loss": 0.5})
    (path,) = tmp_path.iterdir()
    data, num_records = path.read_bytes(), 0
    while data:  # a record is its length, a checksum of that, itself, a checksum of it
        (length,) = struct.unpack("<Q", data[:8])
        data, num_records = data[8 + 4 + length + 4 :], num_records + 1
    assert num_records == 3  # version, start, loss
    assert scalars_of(tmp_path) == {"loss": [(1, 0.5)]}
    events.close()


def test_a_full_disk_is_a_line(tmp_path):
    message = r"tfevents\.\d+\.rcjax cannot be written: File too large"
    with full_disk(2**8), pytest.raises(DiskError, match=message), EventFile(tmp_path, first_step=1) as events:
        events.add(1, {f"loss{number}": 0.5 for number in range(100)})


def test_a_missing_package_is_said(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "tensorboardX", None)  # as Python marks what cannot be imported
    with pytest.raises(ValueError, match=r"needs tensorboardX; install rcjax\[tensorboard\], or leave it out"):
        check_events(tmp_path / "events")
    assert not (tmp_path / "events").exists()
