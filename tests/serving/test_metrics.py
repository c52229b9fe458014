"""Metrics of a real server on a tiny model, as Prometheus reads them, against its answers and its `Stats`."""

import sys
import threading
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass, fields
from pathlib import Path

import grpc
import pytest
from fake_router import FakeRouter, Gate
from fake_slice import Slices, ask
from prometheus_client.parser import text_string_to_metric_families

sys.path.insert(0, str(Path(__file__).parents[1] / "engine"))

from tiny_engine import event, item, tiny_model, tiny_settings

from rcjax.cache.snapshot.report import SnapshotReport
from rcjax.catalog.types import User
from rcjax.config import ArmSettings, CacheSettings, MeshSettings, SchedulerSettings, ShapeSettings
from rcjax.errors import NotFoundError, ResourceExhaustedError
from rcjax.request import RecommendRequest, RecommendResult, TokenCounts
from rcjax.serving.admission_limits import AdmissionLimits
from rcjax.serving.client import RecommenderClient
from rcjax.serving.local import LocalEngine
from rcjax.serving.server import Addresses, Server, running_server
from rcjax.serving.snapshots import SnapshotCounters
from rcjax.serving.startup import start_engine
from rcjax.serving.telemetry import METRICS, Telemetry

ITEMS = [item(number, num_words=2) for number in range(6)]
ARMS = {
    "parallel": ArmSettings(layout="parallel", scoring="anchor", selection="none"),
    "chosen": ArmSettings(selection="boundary(first=2)"),
}
RECOMMEND = "/rcjax.v1.Recommender/Recommend"
USERS = ("shopper-with-a-name", "another-shopper")


class Samples:
    """What a scrape says: values by name and labels."""

    def __init__(self, text: str):
        self.text = text
        self.families = {family.name: family for family in text_string_to_metric_families(text)}
        self._values: dict[tuple[str, frozenset[tuple[str, str]]], float] = {
            (sample.name, frozenset(sample.labels.items())): sample.value
            for family in self.families.values()
            for sample in family.samples
        }

    def value(self, name: str, **labels: str) -> float:
        return self._values[name, frozenset(labels.items())]

    def sum(self, name: str, **labels: str) -> float:
        """Over all samples of that name which have these labels."""
        wanted = labels.items()
        return sum(value for (of, its), value in self._values.items() if of == name and set(wanted) <= its)

    @property
    def series(self) -> set[tuple[str, frozenset[tuple[str, str]]]]:
        return {key for key in self._values if key[0].startswith("rcjax_")}


def scrape(addresses: Addresses) -> Samples:
    """Once no ranking is under way: a caller hears of an error a moment before it is counted."""
    while True:
        with urllib.request.urlopen(f"http://{addresses.metrics}/metrics", timeout=60) as response:
            samples = Samples(response.read().decode())
        if not samples.sum("rcjax_rpcs_under_way", method=RECOMMEND):
            return samples


@dataclass
class Running:
    engine: LocalEngine
    addresses: Addresses
    client: RecommenderClient

    def rank(self, numbers: tuple[int, int], user_id: str = USERS[0], arm: str = "parallel") -> RecommendResult:
        candidates = tuple(ITEMS[number].item_id for number in numbers)
        return self.client.recommend(RecommendRequest(candidates, user_id, arm=arm))


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    """Two slices that take turns, each with a part of the items, so that they fetch from one another."""
    mesh = MeshSettings(slices=2, placement="hash", scheduler=SchedulerSettings(policy="round_robin"))
    settings = tiny_settings(
        tmp_path_factory.mktemp("metrics"),
        mesh=mesh,
        arms=ARMS,
        default_arm="parallel",
        shapes=ShapeSettings(rank=((144, 16, 2),), build=((96, 8),)),
        cache=CacheSettings(page_tokens=8, pool_bytes=2**21, host_bytes=2**22),
    )
    engine = start_engine(settings, model=tiny_model())
    engine.router.workers[0].cache.executor.cost.build_alone_s = lambda num_tokens: 1e6  # so that fetching is cheaper
    telemetry = Telemetry(("127.0.0.1", 0))
    with (
        running_server(Server(lambda: engine.router, telemetry=telemetry)) as addresses,
        RecommenderClient(addresses.main, addresses.admin, timeout_s=60.0) as client,
    ):
        client.put_items(ITEMS)
        for user_id in USERS:
            client.put_user(User(user_id, tuple(event(number) for number in range(2))))
        yield Running(engine, addresses, client)


def tokens_of(samples: Samples) -> TokenCounts:
    """The sums that a scrape tells, as an answer would."""
    prompt = {
        name: int(samples.sum("rcjax_prompt_tokens_total", source=name)) for name in ("cached", "selected", "fresh")
    }
    origins = {"built": "built", "fetched": "slice", "host": "host", "disk": "disk"}
    missed = {name: int(samples.sum("rcjax_missed_tokens_total", origin=origin)) for name, origin in origins.items()}
    probed, semantic = samples.sum("rcjax_probed_tokens_total"), samples.sum("rcjax_semantic_tokens_total")
    return TokenCounts(**prompt, **missed, probed=int(probed), semantic=int(semantic))


def difference(after: TokenCounts, before: TokenCounts) -> TokenCounts:
    return TokenCounts(**{one.name: getattr(after, one.name) - getattr(before, one.name) for one in fields(after)})


def test_requests_are_counted_as_their_answers_and_stats_say(running: Running) -> None:
    before = scrape(running.addresses)
    results = [running.rank((0, number)) for number in range(1, 6)]
    results += [running.rank((1, number), USERS[1], "chosen") for number in range(2, 6)]
    with pytest.raises(NotFoundError):
        running.client.recommend(RecommendRequest((ITEMS[0].item_id,), "nobody"))
    after, stats = scrape(running.addresses), running.client.stats()

    def grown(name: str, **labels: str) -> float:
        return after.sum(name, **labels) - before.sum(name, **labels)

    counted = sum((result.tokens for result in results), TokenCounts())
    assert difference(tokens_of(after), tokens_of(before)) == counted
    assert tokens_of(after) == stats.tokens
    assert counted.selected > 0
    assert counted.fetched > 0
    assert grown("rcjax_prompt_tokens_total", kind="item", source="selected") == counted.selected
    assert grown("rcjax_prompt_tokens_total", kind="instruction", source="cached") > 0
    assert grown("rcjax_prompt_tokens_total", kind="glue", source="cached") == 0
    assert (grown("rcjax_requests_total", code="OK"), grown("rcjax_requests_total", code="NOT_FOUND")) == (9, 1)
    assert after.sum("rcjax_requests_total") == stats.num_requests
    assert after.sum("rcjax_requests_total") - after.sum("rcjax_requests_total", code="OK") == stats.num_failed
    assert grown("rcjax_request_duration_seconds_count", code="OK") == 9
    for arm, number in (("parallel", 5), ("chosen", 4)):
        of_arm = [result.times for result in results if result.arm == arm]
        assert grown("rcjax_request_ttft_seconds_count", arm=arm) == number
        assert grown("rcjax_request_ttft_seconds_bucket", arm=arm, le="+Inf") == number
        total_s = sum(times.ttft_ms for times in of_arm) / 1e3
        assert grown("rcjax_request_ttft_seconds_sum", arm=arm) == pytest.approx(total_s)
        for stage in ("plan", "queue", "build", "probe", "extend", "readout"):
            stage_s = sum(getattr(times, f"{stage}_ms") for times in of_arm) / 1e3
            assert grown("rcjax_request_stage_seconds_sum", arm=arm, stage=stage) == pytest.approx(stage_s, abs=1e-9)
    assert grown("rcjax_rpcs_total", method=RECOMMEND, code="OK") == 9
    assert grown("rcjax_rpcs_total", method=RECOMMEND, code="NOT_FOUND") == 1
    assert grown("rcjax_rpc_duration_seconds_count", method=RECOMMEND) == 10
    assert after.value("rcjax_rpcs_under_way", method=RECOMMEND) == 0


def test_passes_tell_their_rows_and_padding(running: Running) -> None:
    before = scrape(running.addresses)
    results = [running.rank((number, number + 1)) for number in range(5)]
    after = scrape(running.addresses)

    def grown(name: str, **labels: str) -> float:
        return after.sum(name, **labels) - before.sum(name, **labels)

    num_tokens = sum(result.tokens.selected + result.tokens.fresh for result in results)
    assert grown("rcjax_pass_rows_count", purpose="rank") == 5  # one after the other
    assert grown("rcjax_pass_rows_sum", purpose="rank") == 5
    assert grown("rcjax_pass_rows_bucket", purpose="rank", le="1.0") == 5
    assert grown("rcjax_pass_tokens_total", purpose="rank", use="computed") == num_tokens
    assert grown("rcjax_pass_tokens_total", purpose="rank", use="padding") == 5 * 144 * 2 - num_tokens
    shares = grown("rcjax_pass_padding_ratio_sum", purpose="rank")
    assert shares == pytest.approx((5 * 144 * 2 - num_tokens) / (144 * 2))
    assert grown("rcjax_pass_seconds_sum", purpose="rank") > 0
    assert grown("rcjax_slice_busy_seconds_total", purpose="rank") == pytest.approx(
        grown("rcjax_pass_seconds_sum", purpose="rank")
    )


def test_slices_tell_what_stats_tell(running: Running) -> None:
    running.rank((0, 3))
    samples, stats = scrape(running.addresses), running.client.stats()
    for index, one in enumerate(stats.slices):
        labels = {"slice": str(index)}

        def lookups(*tiers: str, labels: dict[str, str] = labels) -> float:
            return sum(samples.value("rcjax_block_lookups_total", **labels, tier=tier) for tier in tiers)

        assert lookups("local", "replica") == one.num_hits
        assert lookups("replica") == one.num_replica_hits
        assert lookups("remote", "host", "disk", "miss") == one.num_misses
        assert lookups("remote") == one.num_fetched
        assert samples.value("rcjax_evictions_total", **labels) == one.num_evictions
        assert samples.value("rcjax_pool_pages", **labels) == one.pages_total
        assert samples.value("rcjax_pool_pages_used", **labels) == one.pages_used
        assert samples.value("rcjax_moved_bytes_total", **labels, path="from_slice") == one.fetched_bytes
        assert samples.value("rcjax_moved_bytes_total", **labels, path="to_slice") == one.lent_bytes
        assert samples.value("rcjax_slice_requests_total", **labels) == one.num_requests
        assert samples.value("rcjax_slice_requests_under_way", **labels) == 0
        assert samples.value("rcjax_slice_state", **labels, state="open") == 1
        assert samples.sum("rcjax_slice_state", **labels) == 1
    assert sum(one.num_fetched for one in stats.slices) > 0
    assert samples.sum("rcjax_pool_bytes") == stats.pool_bytes
    assert (samples.value("rcjax_items"), samples.value("rcjax_users")) == (stats.num_items, stats.num_users)
    assert samples.value("rcjax_compilations_total") == stats.num_compilations
    assert samples.value("rcjax_ready") == 1
    assert samples.sum("rcjax_engine_info", model=running.client.info().model) == 1


def test_every_metric_is_exported_and_no_other(running: Running) -> None:
    exported = {name: family for name, family in scrape(running.addresses).families.items() if "rcjax" in name}
    assert exported.keys() == {metric.name.removesuffix("_total") for metric in METRICS}
    for metric in METRICS:
        family = exported[metric.name.removesuffix("_total")]
        assert (family.type, family.documentation) == (metric.kind, metric.help)
        assert {frozenset(sample.labels) - {"le"} for sample in family.samples} <= {frozenset(metric.labels)}


def test_a_scrape_needs_no_slice_thread(running: Running) -> None:
    is_held, is_done = threading.Event(), threading.Event()
    worker = running.engine.router.workers[0]
    held = worker.call(lambda worker: (is_held.set(), is_done.wait(60)))
    try:
        assert is_held.wait(60)
        futures = [running.engine.router.submit(RecommendRequest((ITEMS[0].item_id,), USERS[0])) for _ in range(4)]
        samples = scrape(running.addresses)
        assert samples.value("rcjax_ready") == 1
        assert not held.done()
        assert samples.value("rcjax_pool_pages", slice="0") > 0
    finally:
        is_done.set()
    for future in futures:
        future.result(60)


def test_callers_add_no_series_and_are_not_named(running: Running) -> None:
    running.rank((0, 1))
    with pytest.raises(NotFoundError):
        running.client.recommend(RecommendRequest((ITEMS[0].item_id,), "stranger-0"))

    def call_unknown(name: str) -> None:
        with grpc.insecure_channel(running.addresses.main) as channel, pytest.raises(grpc.RpcError):
            channel.unary_unary(name)(b"", timeout=60)

    call_unknown("/what/is-0")
    before = scrape(running.addresses).series
    for number in range(1, 5):
        user_id = f"stranger-{number}"
        running.client.put_user(User(user_id, (event(number),)))
        running.rank((number, 0), user_id)
        with pytest.raises(NotFoundError):
            running.client.recommend(RecommendRequest((f"unseen-{number}",), user_id))
        call_unknown(f"/what/is-{number}")
    samples = scrape(running.addresses)
    assert samples.series == before
    assert samples.value("rcjax_rpcs_total", method="unknown", code="UNIMPLEMENTED") == 5
    for name in (*USERS, "stranger", "unseen", "what", *(one.item_id for one in ITEMS), *(one.title for one in ITEMS)):
        assert f'"{name}' not in samples.text


def test_refusals_are_counted_by_reason() -> None:
    slices = Slices(limits=AdmissionLimits(max_queue_s=1.0, default_deadline_s=1e9))
    gate = Gate()
    slices.worker.before = lambda name: gate()
    slices.router.start()
    with running_server(Server(lambda: slices.router, telemetry=Telemetry(("127.0.0.1", 0)))) as addresses:
        futures = [slices.router.submit_planned([ask(1, 2, 3)])[0]]
        refused = 0
        while refused < 3:  # from when the first ones are planned, so that it is known what they take
            try:
                futures.append(slices.router.submit(ask(1, 2, 3)))
            except ResourceExhaustedError:
                refused += 1
        samples = scrape(addresses)
        gate.open.set()
        for future in futures:
            future.result(60)
    assert samples.value("rcjax_rejections_total", reason="queue") == refused
    assert 0 < samples.value("rcjax_requests_waiting") < len(futures)
    assert samples.value("rcjax_backlog_seconds") > 1
    assert samples.value("rcjax_rejections_total", reason="write") == 0


class FakeTiers:
    host_bytes_used, disk_bytes_used, num_corrupt = 2**40, 7, 3


def test_tiers_are_in_stats_and_metrics() -> None:
    slices = Slices(tiers=FakeTiers())
    slices.router.start()
    server = Server(lambda: slices.router, telemetry=Telemetry(("127.0.0.1", 0)))
    with running_server(server) as addresses, RecommenderClient(addresses.main, addresses.admin) as client:
        stats, samples = client.stats(), scrape(addresses)
    assert (stats.host_bytes_used, stats.disk_bytes_used, stats.num_corrupt) == (2**40, 7, 3)
    assert (samples.value("rcjax_tier_bytes", tier="host"), samples.value("rcjax_tier_bytes", tier="disk")) == (
        2**40,
        7,
    )
    assert samples.value("rcjax_corrupt_blocks_total", where="tiers") == 3


def test_a_server_that_starts_says_that_it_is_not_ready() -> None:
    gate = Gate()

    def factory() -> FakeRouter:
        gate()
        return FakeRouter()

    telemetry = Telemetry(("127.0.0.1", 0))
    server = Server(factory, telemetry=telemetry, grace_s=0.0)

    def starting() -> FakeRouter:
        return server._starting.get()

    try:
        samples = Samples("")
        server._starting.start()
        address = telemetry.start(starting)
        samples = scrape(Addresses("", "", address))
    finally:
        gate.open.set()
        telemetry.stop()
    assert samples.value("rcjax_ready") == 0
    assert {name for name, _ in samples.series} == {"rcjax_ready"}


def test_a_taken_port_is_an_error() -> None:
    telemetry = Telemetry(("127.0.0.1", 0))
    port = int(telemetry.start(FakeRouter).rsplit(":")[1])
    try:
        with pytest.raises(OSError, match=rf"127.0.0.1:{port} .*telemetry.metrics_port"):
            Telemetry(("127.0.0.1", port)).start(FakeRouter)
    finally:
        telemetry.stop()


class FakeSnapshots:
    def __init__(self, counters: SnapshotCounters):
        self.counters = counters

    def stop(self) -> None: ...


def test_snapshots_tell_of_the_last_one_once_there_is_one() -> None:
    slices = Slices()
    slices.router.start()
    last = SnapshotReport(num_blocks=3, num_bytes=2**40, num_skipped=0, num_written=1, written_bytes=2**20)
    with running_server(Server(lambda: slices.router, telemetry=Telemetry(("127.0.0.1", 0)))) as addresses:
        without = scrape(addresses)
        slices.router.snapshots = FakeSnapshots(SnapshotCounters(num_failed=1))
        before = scrape(addresses)
        slices.router.snapshots = FakeSnapshots(SnapshotCounters(2, 1, 5, 4, last, last_end_s=1.5e9, last_took_s=2.5))
        after = scrape(addresses)
    of_snapshots = {"rcjax_snapshots_total", "rcjax_snapshot_timestamp_seconds", "rcjax_restored_blocks_total"}
    assert not {name for name, _ in without.series} & of_snapshots
    assert (before.value("rcjax_snapshots_total"), before.value("rcjax_snapshot_failures_total")) == (0, 1)
    assert "rcjax_snapshot_timestamp_seconds" not in {name for name, _ in before.series}
    assert after.value("rcjax_snapshots_total") == 2
    assert after.value("rcjax_restored_blocks_total") == 5
    assert after.value("rcjax_corrupt_blocks_total", where="snapshots") == 4
    assert after.value("rcjax_snapshot_timestamp_seconds") == 1.5e9
    assert after.value("rcjax_snapshot_duration_seconds") == 2.5
    assert after.value("rcjax_snapshot_bytes", part="all") == 2**40
    assert after.value("rcjax_snapshot_bytes", part="written") == 2**20
