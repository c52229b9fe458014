"""What an engine's report becomes for Prometheus."""

from collections.abc import Callable, Iterator

from prometheus_client.core import Metric as Family

from rcjax.serving.engine_report import EngineReport
from rcjax.serving.slice_loads import SliceState
from rcjax.serving.telemetry import catalogue
from rcjax.serving.telemetry.metric import Metric
from rcjax.serving.telemetry.slice_collector import of_blocks, of_passes, of_slices


class EngineCollector:
    """Collects metrics in the thread that asks for them. `report` gives None as long as there is no engine."""

    def __init__(self, report: Callable[[], EngineReport | None]):
        self._report = report

    def collect(self) -> Iterator[Family]:
        report = self._report()
        is_ready = report is not None and any(SliceState(one.state).is_alive for one in report.stats.slices)
        yield catalogue.READY.numbers([((), float(is_ready))])
        if report is None:
            return
        for part in (_of_engine, _of_requests, _of_tokens, of_passes, of_slices, of_blocks, _of_snapshots):
            yield from part(report)


def _of_engine(report: EngineReport) -> Iterator[Family]:
    info, stats = report.info, report.stats
    labels = (info.version, info.model, info.template, info.dtype, info.device)
    yield catalogue.ENGINE_INFO.numbers([(labels, 1.0)])
    for metric, value in (
        (catalogue.COMPILATIONS, stats.num_compilations),
        (catalogue.ITEMS, stats.num_items),
        (catalogue.USERS, stats.num_users),
        (catalogue.RETRIES, stats.num_retries),
        (catalogue.IMBALANCE, stats.imbalance),
    ):
        yield metric.numbers([((), value)])


def _of_requests(report: EngineReport) -> Iterator[Family]:
    times = report.times
    yield catalogue.REQUESTS.numbers(((code,), read.num_values) for code, read in times.answers.items())
    yield catalogue.REQUEST_SECONDS.histograms(((code,), read) for code, read in times.answers.items())
    yield catalogue.TTFT.histograms(((arm,), read) for arm, read in times.ttft.items())
    yield catalogue.STAGE_SECONDS.histograms(times.stages.items())
    yield catalogue.REJECTIONS.numbers(((reason,), number) for reason, number in report.rejected.items())
    yield catalogue.WAITING.numbers([((), report.num_waiting)])
    yield catalogue.BACKLOG.numbers([((), report.backlog_s)])


def _of_tokens(report: EngineReport) -> Iterator[Family]:
    for metric, name in ((catalogue.PROMPT_TOKENS, "prompt_tokens"), (catalogue.MISSED_TOKENS, "missed_tokens")):
        tokens = [getattr(worker, name) for worker in report.workers]
        labels = dict.fromkeys(label for of_slice in tokens for label in of_slice)
        yield metric.numbers((label, sum(of_slice.get(label, 0) for of_slice in tokens)) for label in labels)
    yield catalogue.PROBED_TOKENS.numbers([((), report.stats.tokens.probed)])
    yield catalogue.SEMANTIC_TOKENS.numbers([((), report.stats.tokens.semantic)])


def _of_snapshots(report: EngineReport) -> Iterator[Family]:
    """No values where no place for snapshots is configured, and of the last one none before the first."""
    counted = report.snapshots
    last = None if counted is None else counted.last
    counters: tuple[tuple[Metric, str], ...] = (
        (catalogue.SNAPSHOTS, "num_taken"),
        (catalogue.SNAPSHOT_FAILURES, "num_failed"),
        (catalogue.RESTORED, "num_restored_blocks"),
    )
    for metric, name in counters:
        yield metric.numbers([] if counted is None else [((), getattr(counted, name))])
    for metric, name in ((catalogue.SNAPSHOT_TIME, "last_end_s"), (catalogue.SNAPSHOT_SECONDS, "last_took_s")):
        yield metric.numbers([] if last is None else [((), getattr(counted, name))])
    sizes = () if last is None else ((("all",), last.num_bytes), (("written",), last.written_bytes))
    yield catalogue.SNAPSHOT_BYTES.numbers(sizes)
