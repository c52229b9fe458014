"""A report of an engine, for metrics: everything that it counts, read without a word to the slices' threads."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from rcjax.request import EngineInfo, EngineStats
from rcjax.serving.answer_times import AnswerTimesRead


@dataclass(frozen=True, slots=True)
class EngineReport:
    """Counters since start-up and gauges of now.

    `workers` are the slices' own statistics by index (`rcjax.engine.worker_stats.WorkerStats`). `rejected` counts, by
    reason, what was refused before it waited anywhere, and `num_waiting` what waits for a slice; `backlog_s` are
    the seconds that slices need for all that was let in. `snapshots` are the
    `rcjax.serving.snapshots.SnapshotCounters`, where the engine takes any.
    """

    info: EngineInfo
    stats: EngineStats
    workers: tuple[Any, ...]
    times: AnswerTimesRead
    rejected: Mapping[str, int]
    num_waiting: int
    backlog_s: float
    snapshots: Any = None
