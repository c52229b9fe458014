"""The load test: when it sends, what it counts, and what a server that stands still does to its figures."""

import asyncio
import heapq
import itertools
import json
import math
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from credentials_kit import TOKENS, Authority, write_tokens
from fake_router import FakeRouter, ranked
from typer.testing import CliRunner

from rcjax.catalog import Request
from rcjax.commands.app import app
from rcjax.commands.load import schedule
from rcjax.commands.load.command import LoadOptions
from rcjax.commands.load.figures import figures_of
from rcjax.commands.load.open_loop import Sample, run_open_loop
from rcjax.commands.load.schedule import Arrival
from rcjax.errors import DeadlineExceededError, InvalidRequestError, ResourceExhaustedError
from rcjax.request import RecommendRequest, RecommendResult
from rcjax.serving.security import ServerSecurity
from rcjax.serving.server import Server, running_server

REQUESTS = [Request("ann", (f"item-{number}",)) for number in range(5)]


class Time:
    """A clock that goes on when all sleep: then to when the first of them wakes."""

    def __init__(self) -> None:
        self.now_s = 100.0
        self._sleepers: list[tuple[float, int, asyncio.Event]] = []
        self._number = itertools.count()

    def __call__(self) -> float:
        return self.now_s

    async def sleep(self, seconds: float) -> None:
        woken = asyncio.Event()
        heapq.heappush(self._sleepers, (self.now_s + seconds, next(self._number), woken))
        await woken.wait()

    async def run(self, work) -> object:
        task = asyncio.ensure_future(work)
        while not task.done():
            for _ in range(20):  # lets everybody get to where they sleep
                await asyncio.sleep(0)
            if self._sleepers and not task.done():
                due_s, _, woken = heapq.heappop(self._sleepers)
                self.now_s = max(self.now_s, due_s)
                woken.set()
        return task.result()


class OneAtATime:
    """A server that answers one request after the other, in `service_s` each; once it stands still for `stall_s`."""

    def __init__(self, time: Time, service_s: float, *, stall_from_s: float = math.inf, stall_s: float = 0.0):
        self.time = time
        self.service_s = service_s
        self.stall = (time.now_s + stall_from_s, time.now_s + stall_from_s + stall_s)
        self.sent_s: list[float] = []
        self._lock = asyncio.Lock()

    async def __call__(self, request: RecommendRequest) -> RecommendResult:
        self.sent_s.append(self.time.now_s)
        async with self._lock:
            if self.stall[0] <= self.time.now_s < self.stall[1]:
                await self.time.sleep(self.stall[1] - self.time.now_s)
            await self.time.sleep(self.service_s)
        return ranked(request)


def every(gap_s: float, num: int) -> list[Arrival]:
    return [Arrival(number * gap_s, RecommendRequest(("item-1",), "ann")) for number in range(num)]


def test_the_schedule_is_kept_while_the_server_stalls() -> None:
    """Ten seconds of standing still: a closed loop would see one slow request, and here a thousand have waited."""

    async def main() -> list[Sample]:
        time = Time()
        server = OneAtATime(time, 0.0, stall_from_s=5.0, stall_s=10.0)
        samples = await time.run(run_open_loop(server, every(0.01, 2000), clock=time, sleep=time.sleep))
        np.testing.assert_allclose(np.array(server.sent_s) - 100.0, np.arange(2000) * 0.01, atol=1e-9)
        return samples

    samples = asyncio.run(main())
    latency_ms = np.array([sample.latency_ms for sample in samples])
    due_s = np.arange(2000) * 0.01
    waits_s = np.where((due_s >= 5 - 1e-9) & (due_s < 15), 15 - due_s, 0.0)
    np.testing.assert_allclose(latency_ms, waits_s * 1e3, atol=1e-6)
    figures = figures_of(samples, 100.0, slo_ms=1000.0)
    assert figures.latency_ms["p90"] == pytest.approx(np.percentile(waits_s, 90) * 1e3)
    assert figures.num_within_slo == np.sum(waits_s <= 1.0 + 1e-9)


def test_what_queues_at_twice_the_capacity_is_in_the_latency() -> None:
    async def main() -> list[Sample]:
        time = Time()
        arrivals = every(0.5, 100)  # each takes 1 s
        return await time.run(run_open_loop(OneAtATime(time, 1.0), arrivals, clock=time, sleep=time.sleep))

    samples = asyncio.run(main())
    expected_s = [(number + 1) - number * 0.5 for number in range(100)]
    np.testing.assert_allclose([sample.latency_ms for sample in samples], np.array(expected_s) * 1e3, atol=1e-6)
    assert figures_of(samples, 2.0, slo_ms=5000.0).answered_per_s == pytest.approx(1.0)


def test_a_late_sender_is_charged_and_said() -> None:
    """The load test's own loop was held up for 3 s: the requests waited, whoever is to blame."""

    async def main() -> list[Sample]:
        time = Time()

        async def ask(request: RecommendRequest) -> RecommendResult:
            if time.now_s == 101.0:
                time.now_s += 3.0  # on the loop itself, as a busy machine would
            return ranked(request)

        return await time.run(run_open_loop(ask, every(1.0, 6), clock=time, sleep=time.sleep))

    samples = asyncio.run(main())
    assert [sample.late_ms for sample in samples] == [0, 0, 2000, 1000, 0, 0]
    assert [sample.latency_ms for sample in samples] == [0, 3000, 2000, 1000, 0, 0]


def test_errors_are_counted_by_class_and_are_no_answers() -> None:
    errors = [ResourceExhaustedError("full"), DeadlineExceededError("late"), ResourceExhaustedError("full")]

    async def main() -> list[Sample]:
        time = Time()

        async def ask(request: RecommendRequest) -> RecommendResult:
            if time.now_s < 103:
                raise errors[int(time.now_s) - 100]
            return ranked(request)

        return await time.run(run_open_loop(ask, every(1.0, 5), clock=time, sleep=time.sleep))

    figures = figures_of(asyncio.run(main()), 1.0, slo_ms=1.0)
    assert figures.errors == {"ResourceExhaustedError": 2, "DeadlineExceededError": 1}
    assert (figures.num_sent, figures.num_answered, figures.num_within_slo) == (5, 2, 2)
    assert figures.wall_s == 4.0
    assert figures.goodput_per_s == 0.5


def test_where_nothing_is_answered_there_are_no_percentiles() -> None:
    figures = figures_of([Sample(0.0, 0.0, 1.0, error="UnavailableError")], 1.0, slo_ms=10.0)
    assert (figures.ttft_ms, figures.latency_ms, figures.goodput_per_s) == ({}, {}, 0.0)


@pytest.mark.parametrize("name", list(schedule.GAPS))
def test_drawn_arrivals_have_their_rate_and_their_seed(name: str) -> None:
    def at(rate: float, seed: int) -> list[Arrival]:
        return schedule.drawn(REQUESTS, schedule.GAPS[name], rate, 20_000 / rate, arm="full", seed=seed)

    arrivals = at(50.0, 1)
    assert len(arrivals) == 20_000
    assert schedule.mean_rate(arrivals) == pytest.approx(50.0, rel=0.2)
    assert arrivals == at(50.0, 1)
    assert arrivals != at(50.0, 2)
    slower = at(25.0, 1)  # the same requests and gaps, stretched
    assert [one.request for one in slower] == [one.request for one in arrivals]
    np.testing.assert_allclose([one.at_s for one in slower], [2 * one.at_s for one in arrivals])
    assert {one.request.candidates for one in arrivals} == {request.candidates for request in REQUESTS}
    assert {one.request.arm for one in arrivals} == {"full"}


def test_bursts_are_burstier_than_poisson() -> None:
    def variation(name: str) -> float:
        arrivals = schedule.drawn(REQUESTS, schedule.GAPS[name], 100.0, 1000.0, arm="", seed=0)
        counts = np.bincount(np.array([one.at_s for one in arrivals]).astype(int))
        return float(np.var(counts) / np.mean(counts))  # 1 of a Poisson process

    assert variation("poisson") == pytest.approx(1.0, abs=0.2)
    assert variation("bursty") > 5


def test_a_trace_is_replayed_as_it_was_recorded(tmp_path: Path) -> None:
    trace = tmp_path / "trace.jsonl"
    lines = [
        {"at_s": 1000.5, "user_id": "bob", "candidates": ["a", "b"], "arm": "full"},
        {"at_s": 1000.5, "user_id": "eve", "candidates": ["c"]},
        {"at_s": 1003.0},
    ]
    trace.write_text("".join(json.dumps(line) + "\n" for line in lines))
    arrivals = schedule.read_trace(trace, REQUESTS, arm="blocks", seed=0)
    assert [one.at_s for one in arrivals] == [0.0, 0.0, 2.5]
    assert arrivals[0].request == RecommendRequest(("a", "b"), "bob", arm="full")
    assert arrivals[1].request == RecommendRequest(("c",), "eve", arm="blocks")
    assert Request(arrivals[2].request.user_id, arrivals[2].request.candidates) in REQUESTS
    assert [one.at_s for one in schedule.at_rate(arrivals, 8.0)] == [0.0, 0.0, 0.25]


@pytest.mark.parametrize(
    ("lines", "named"),
    [
        ('{"at_s": 1}\n{"at_s": 0.5}', ":2: no arrival.*ascends"),
        ('{"at_s": "x"}', ":1: no arrival"),
        ("{}", ":1: no arrival.*at_s"),
        ('{"at_s": NaN}', ":1: no arrival"),
        ('{"at_s": 1, "candidates": "a"}', ":1: no arrival.*candidates is 'a'"),
        ('{"at_s": 1, "candidates": ["a"]}', ":1: no arrival.*user_id"),
        ("", "has no arrivals"),
    ],
)
def test_a_bad_trace_is_named(tmp_path: Path, lines: str, named: str) -> None:
    trace = tmp_path / "trace.jsonl"
    trace.write_text(lines)
    with pytest.raises(ValueError, match=named):
        schedule.read_trace(trace, REQUESTS, arm="", seed=0)


@pytest.mark.parametrize(
    ("options", "named"), [({"rates_per_s": (1.0, 0.0)}, "above 0"), ({"rates_per_s": ()}, "--rate 1,2,4")]
)
def test_options_that_send_nothing_are_refused(options: dict[str, object], named: str) -> None:
    with pytest.raises(ValueError, match=named):
        LoadOptions("127.0.0.1:1", **options)


# ---- the command, against a server


@pytest.fixture
def run(monkeypatch):
    monkeypatch.setenv("COLUMNS", "250")
    monkeypatch.setenv("NO_COLOR", "1")
    return lambda *args: CliRunner().invoke(app, list(args))


@pytest.fixture(scope="module")
def address() -> Iterator[str]:
    engine = FakeRouter(*(f"item-0000{number}" for number in range(5)))

    def refuse(asked: object) -> None:
        if asked.user_id == "bad":
            raise InvalidRequestError("user_id is bad", field="user_id")

    engine.before = refuse
    with running_server(Server(lambda: engine)) as addresses:
        yield addresses.main


@pytest.fixture
def config(tmp_path: Path) -> str:
    (tmp_path / "items.jsonl").write_text("".join(f'{{"item_id": "item-0000{n}", "title": "T"}}\n' for n in range(5)))
    (tmp_path / "users.jsonl").write_text('{"user_id": "ann", "events": []}\n{"user_id": "bad", "events": []}\n')
    (tmp_path / "requests.jsonl").write_text('{"user_id": "ann", "candidates": ["item-00003", "item-00001"]}\n')
    file = tmp_path / "mine.yaml"
    file.write_text(f"catalogue: {{format: jsonl, paths: {{folder: {tmp_path}}}}}")
    return str(file)


def test_a_sweep_of_a_server(run, address, config, tmp_path) -> None:
    out, plot = tmp_path / "out.json", tmp_path / "out.png"
    options = ["--rate", "50,100", "--duration-s", "0.4", "--slo-ms", "60000", "--seed", "3"]
    result = run("bench", "--config", config, "--target", address, *options, "--json", str(out), "--plot", str(plot))
    assert result.exit_code == 0, result.output
    assert "no coordinated omission" in result.output
    report = json.loads(out.read_text())
    assert [(rate["rate_per_s"], rate["num_sent"], rate["num_answered"]) for rate in report["rates"]] == [
        (50.0, 20, 20),
        (100.0, 40, 40),
    ]
    for rate in report["rates"]:
        assert rate["num_within_slo"] == rate["num_sent"]
        assert set(rate["ttft_ms"]) == set(rate["latency_ms"]) == {"p50", "p90", "p99"}
        assert len(rate["samples"]) == rate["num_sent"]
        assert all(sample["latency_ms"] >= sample["late_ms"] >= 0 for sample in rate["samples"])
    assert (report["slo_ms"], report["seed"], report["claims"]) == (60000.0, 3, [])
    assert plot.read_bytes().startswith(b"\x89PNG")


def test_a_trace_with_refused_requests(run, address, config, tmp_path) -> None:
    trace, out = tmp_path / "trace.jsonl", tmp_path / "out.json"
    asks = [("ann", "item-00001"), ("bad", "item-00001"), ("ann", "item-77777"), ("ann", "item-00002")]
    lines = [{"at_s": 0.01 * at, "user_id": user, "candidates": [item]} for at, (user, item) in enumerate(asks)]
    trace.write_text("".join(json.dumps(line) + "\n" for line in lines))
    result = run("bench", "--config", config, "--target", address, "--arrivals", str(trace), "--json", str(out))
    assert result.exit_code == 0, result.output
    assert "1 InvalidRequestError, 1 NotFoundError" in result.output
    (rate,) = json.loads(out.read_text())["rates"]
    assert rate["rate_per_s"] == pytest.approx(100.0)
    assert [sample["error"] for sample in rate["samples"]] == ["", "InvalidRequestError", "NotFoundError", ""]


def test_where_all_fail_the_command_does_too(run, address, config, tmp_path) -> None:
    trace = tmp_path / "trace.jsonl"
    trace.write_text("".join(f'{{"at_s": {n}e-3, "user_id": "bad", "candidates": ["item-1"]}}\n' for n in range(2)))
    result = run("bench", "--config", config, "--target", address, "--arrivals", str(trace))
    assert result.exit_code == 1
    assert f"no request was answered by {address}" in result.stderr
    assert "2 InvalidRequestError" in result.output


@pytest.mark.parametrize(
    ("args", "code", "named"),
    [
        (["--rate", "1"], 2, "go with --target"),
        (["--arm", "full"], 2, "go with --target"),
        (["--target", "127.0.0.1:1", "-n", "5"], 2, "--requests goes without --target"),
        (["--target", "127.0.0.1:1", "--rate", "1,x"], 2, "1,x"),
        (["--target", "127.0.0.1:1"], 1, "give --rate"),
        (["--target", "127.0.0.1:1", "--rate", "1", "--plot", "a.txt"], 1, "must end in one of"),
        (["--target", "127.0.0.1:1", "--arrivals", "no-such-file"], 1, "no-such-file"),
        (["--target", "127.0.0.1:1", "--rate", "1", "--timeout-s", "0.1"], 1, "not ready within 0.1 s"),
    ],
)
def test_wrong_usage(run, args, code, named) -> None:
    result = run("bench", *args)
    assert result.exit_code == code, result.output
    assert named in result.stderr


def test_a_server_with_tls_and_tokens(run, config, tmp_path) -> None:
    authority = Authority(tmp_path / "ca")
    tokens = write_tokens(tmp_path / "tokens", TOKENS)
    (tmp_path / "mine").write_text(TOKENS["shop"] + "\n")
    engine = FakeRouter("item-00001", "item-00003")
    with running_server(Server(lambda: engine, security=ServerSecurity.of(authority.server(), tokens))) as addresses:
        options = ["--config", config, "--target", addresses.main, "--rate", "100", "--duration-s", "0.1"]
        options += ["--ca", str(authority.file)]
        result = run("bench", *options, "--token-file", str(tmp_path / "mine"))
        assert result.exit_code == 0, result.output
        refused = run("bench", *options)
        assert refused.exit_code == 1
        assert "10 UnauthenticatedError" in refused.output
