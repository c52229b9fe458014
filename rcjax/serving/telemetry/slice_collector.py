"""What the slices' part of an engine's report becomes for Prometheus."""

from collections.abc import Iterator

from prometheus_client.core import Metric as Family

from rcjax.engine.histogram import merged
from rcjax.engine.pass_tally import PassCounts
from rcjax.serving.engine_report import EngineReport
from rcjax.serving.slice_loads import SliceState
from rcjax.serving.telemetry import catalogue
from rcjax.serving.telemetry.metric import Labels

_MOVED = {
    "from_slice": "fetched_bytes",
    "from_host": "from_host_bytes",
    "from_disk": "from_disk_bytes",
    "to_slice": "lent_bytes",
    "to_tiers": "spilled_bytes",
}


def of_passes(report: EngineReport) -> Iterator[Family]:
    by_purpose: dict[str, list[PassCounts]] = {}
    busy: list[tuple[Labels, float]] = []
    for index, worker in enumerate(report.workers):
        for purpose, counts in worker.passes.items():
            by_purpose.setdefault(purpose, []).append(counts)
            busy.append(((str(index), purpose), counts.seconds.total))
    for metric, name in (
        (catalogue.PASS_SECONDS, "seconds"),
        (catalogue.PASS_ROWS, "rows"),
        (catalogue.PASS_PADDING, "padding"),
    ):
        sums = ((purpose, merged(getattr(one, name) for one in found)) for purpose, found in by_purpose.items())
        yield metric.histograms(((purpose,), total) for purpose, total in sums if total is not None)
    tokens: list[tuple[Labels, float]] = []
    for purpose, found in by_purpose.items():
        tokens.append(((purpose, "computed"), sum(one.num_tokens for one in found)))
        tokens.append(((purpose, "padding"), sum(one.num_padding for one in found)))
    yield catalogue.PASS_TOKENS.numbers(tokens)
    yield catalogue.BUSY_SECONDS.numbers(busy)


def of_slices(report: EngineReport) -> Iterator[Family]:
    slices = [(str(index), one) for index, one in enumerate(report.stats.slices)]
    yield catalogue.SLICE_STATE.numbers(
        ((index, str(state)), float(one.state == state)) for index, one in slices for state in SliceState
    )
    yield catalogue.SLICE_QUEUE.numbers(((index,), one.queue_s) for index, one in slices)
    yield catalogue.SLICE_UNDER_WAY.numbers(((index,), one.num_under_way) for index, one in slices)
    yield catalogue.SLICE_REQUESTS.numbers(((index,), one.num_requests) for index, one in slices)


def of_blocks(report: EngineReport) -> Iterator[Family]:
    workers = [(str(index), worker) for index, worker in enumerate(report.workers)]
    lookups: list[tuple[Labels, float]] = []
    for index, worker in workers:
        # Each tier's count only grows: a miss counts once it is known where the block came from.
        lookups += [
            ((index, "local"), worker.num_local_hits),
            ((index, "replica"), worker.num_replica_hits),
            ((index, "remote"), worker.num_fetched),
            ((index, "host"), worker.num_from_host),
            ((index, "disk"), worker.num_from_disk),
            ((index, "miss"), worker.num_computed),
        ]
    yield catalogue.LOOKUPS.numbers(lookups)
    yield catalogue.EVICTIONS.numbers(((index,), worker.num_evictions) for index, worker in workers)
    yield catalogue.NOT_SPILLED.numbers(((index,), worker.num_not_spilled) for index, worker in workers)
    yield catalogue.MOVED_BYTES.numbers(
        ((index, path), getattr(worker, name)) for index, worker in workers for path, name in _MOVED.items()
    )
    states = [one.state for one in report.stats.slices]
    living = [pair for pair, state in zip(workers, states, strict=True) if SliceState(state).is_alive]
    yield catalogue.POOL_PAGES.numbers(((index,), worker.pages_total) for index, worker in living)
    yield catalogue.POOL_PAGES_USED.numbers(((index,), worker.pages_used) for index, worker in living)
    yield catalogue.POOL_BYTES.numbers(((index,), worker.pool_bytes) for index, worker in living)
    stats = report.stats
    yield catalogue.TIER_BYTES.numbers([(("host",), stats.host_bytes_used), (("disk",), stats.disk_bytes_used)])
    corrupt: list[tuple[Labels, float]] = [(("tiers",), stats.num_corrupt)]
    if report.snapshots is not None:
        corrupt.append((("snapshots",), report.snapshots.num_corrupt))
    yield catalogue.CORRUPT.numbers(corrupt)
