"""A server's life as a process: it tests itself, answers what is there before it stops, and says why it ends."""

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from process_kit import Process

from rcjax.serving.v1 import rcjax_pb2, rcjax_pb2_grpc

SERVING = health_pb2.HealthCheckResponse.SERVING
NOT_SERVING = health_pb2.HealthCheckResponse.NOT_SERVING
NAMES = ("", "rcjax.v1.Recommender", "rcjax.v1.Catalog", "rcjax.v1.Admin")
SCRIPT = Path(__file__).with_name("served_process.py")


class Served(Process):
    """The process, and a channel to it."""

    def __init__(self, folder: Path, *options: str):
        super().__init__([SCRIPT, folder, *options], folder / "log")
        self.channel = grpc.insecure_channel(self.until("listening").split()[1])
        self.health = health_pb2_grpc.HealthStub(self.channel)

    def recommend(self) -> grpc.Future:
        candidates = [rcjax_pb2.Candidate(item_id=f"i{number}") for number in range(3)]
        request = rcjax_pb2.RecommendRequest(user_id="u", candidates=candidates)
        return rcjax_pb2_grpc.RecommenderStub(self.channel).Recommend.future(request, timeout=60)

    def statuses(self) -> set[int]:
        return {self.health.Check(health_pb2.HealthCheckRequest(service=name), timeout=60).status for name in NAMES}


@contextmanager
def process(folder: Path, *options: str) -> Iterator[Served]:
    running = Served(folder, *options)
    try:
        yield running
    finally:
        running.kill()
        running.channel.close()


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("served")


def test_on_sigterm_health_says_so_first_and_what_is_there_is_answered(folder: Path) -> None:
    with process(folder) as running:
        assert running.statuses() == {NOT_SERVING}  # alive, and not ready
        running.until("ready")
        assert running.statuses() == {SERVING}
        expected = [one.item_id for one in running.recommend().result(timeout=60).ranking]
        running.tell("hold")
        in_flight = running.recommend()
        watch = running.health.Watch(health_pb2.HealthCheckRequest(), timeout=60)
        assert next(watch).status == SERVING
        running.popen.send_signal(signal.SIGTERM)
        assert next(watch).status == NOT_SERVING
        assert not in_flight.done()
        assert [one.item_id for one in in_flight.result(timeout=60).ranking] == expected
        running.until("stopped")
        assert running.end() == 0


def test_a_lost_engine_ends_the_process_with_the_reason(folder: Path) -> None:
    with process(folder) as running:
        running.until("ready")
        running.tell("kill")
        error = running.recommend().exception(timeout=60)
        assert isinstance(error, grpc.RpcError)
        assert error.code() == grpc.StatusCode.UNAVAILABLE
        assert running.end() == 1
        assert "error: the engine is lost: ExecutorLostError: the device fell off" in running.said


def test_an_engine_that_fails_its_self_test_never_serves(folder: Path) -> None:
    with process(folder, "--is-damaged") as running:
        assert running.end() == 1
        assert "error: the self-test failed: in arm 'parallel', on slice 0, cached blocks score" in running.said
