"""Scalars where TensorBoard reads them: a file of events in a folder."""

import time
from collections.abc import Callable, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any

from rcjax.disk import make_folder, writing
from rcjax.evaluation.summary import ArmSummary

_VERSION = "brain.Event:2"  # from which on TensorBoard takes the word of a session's start


def check_events(folder: Path) -> None:
    """ValueError without tensorboardX, `DiskError` where the folder cannot be written: said before what takes long."""
    try:
        import tensorboardX  # noqa: F401
    except ImportError as error:
        raise ValueError("--tensorboard needs tensorboardX; install rcjax[tensorboard], or leave it out") from error
    make_folder(folder)


class EventFile:
    """A new file of events in `folder`, whose steps from `first_step` on take the place of those in older files there.

    So a run that goes on from a checkpoint shows no pass twice. Each call is on disk when it returns; `DiskError` where
    it cannot be written. `now_ns` is the wall clock.
    """

    def __init__(self, folder: Path, first_step: int, now_ns: Callable[[], int] = time.time_ns):
        # tensorboardX's own writers are threads, which a full disk ends without a word; this part of it is none.
        from tensorboardX import RecordWriter
        from tensorboardX.proto.event_pb2 import Event, SessionLog
        from tensorboardX.proto.summary_pb2 import Summary

        self._event, self._summary, self._now_ns = Event, Summary, now_ns
        self._path = folder / f"events.out.tfevents.{now_ns()}.rcjax"  # TensorBoard reads them in this order
        with writing(self._path):
            self._writer = RecordWriter(str(self._path))
            self._write(file_version=_VERSION)
            self._write(step=first_step, session_log=SessionLog(status=SessionLog.START))

    def __enter__(self) -> "EventFile":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def add(self, step: int, scalars: Mapping[str, float]) -> None:
        values = [self._summary.Value(tag=tag, simple_value=value) for tag, value in scalars.items()]
        with writing(self._path):
            self._write(step=step, summary=self._summary(value=values))
            self._writer.flush()

    def close(self) -> None:
        with writing(self._path):
            self._writer.close()

    def _write(self, **event: Any) -> None:
        self._writer.write(self._event(wall_time=self._now_ns() / 1e9, **event).SerializeToString())


def write_summaries(folder: Path, arms: Mapping[str, ArmSummary]) -> None:
    """Each arm's metrics and percentiles of TTFT, as `ndcg_at_10/ARM` and `ttft_p50_ms/ARM`, in step 0.

    An evaluation takes the place of a former one in the same folder.
    """
    with EventFile(folder, first_step=0) as events:
        for name, summary in arms.items():
            metrics = {f"{metric}/{name}": estimate.value for metric, estimate in summary.metrics.items()}
            times = {f"ttft_{percentile}_ms/{name}": ms for percentile, ms in summary.ttft_ms.items()}
            events.add(0, metrics | times)
