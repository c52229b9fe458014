"""A server's life as a process: it tests itself, answers what is there before it stops, and says why it ends."""

import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from rcjax.serving.v1 import rcjax_pb2, rcjax_pb2_grpc

SERVING = health_pb2.HealthCheckResponse.SERVING
NOT_SERVING = health_pb2.HealthCheckResponse.NOT_SERVING
NAMES = ("", "rcjax.v1.Recommender", "rcjax.v1.Catalog", "rcjax.v1.Admin")
SCRIPT = Path(__file__).with_name("served_process.py")


class Process:
    """The process, and a channel to it."""

    def __init__(self, folder: Path, *options: str):
        self.popen = subprocess.Popen(
            [sys.executable, str(SCRIPT), str(folder), *options],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        self.channel = grpc.insecure_channel(self.until("listening").split()[1])
        self.health = health_pb2_grpc.HealthStub(self.channel)

    def until(self, beginning: str) -> str:
        """The next line that begins so."""
        assert self.popen.stdout is not None
        for line in self.popen.stdout:
            if line.startswith(beginning):
                return line
        raise AssertionError(f"it ended before it said {beginning!r}: {self.popen.stderr.read()}")  # type: ignore[union-attr]

    def tell(self, order: str) -> None:
        assert self.popen.stdin is not None
        self.popen.stdin.write(order + "\n")
        self.popen.stdin.flush()
        self.until(f"did {order}")

    def recommend(self) -> grpc.Future:
        candidates = [rcjax_pb2.Candidate(item_id=f"i{number}") for number in range(3)]
        request = rcjax_pb2.RecommendRequest(user_id="u", candidates=candidates)
        return rcjax_pb2_grpc.RecommenderStub(self.channel).Recommend.future(request, timeout=60)

    def statuses(self) -> set[int]:
        return {self.health.Check(health_pb2.HealthCheckRequest(service=name), timeout=60).status for name in NAMES}

    def end(self) -> tuple[int, str]:
        """Its exit code, and what it said on standard error."""
        _, said = self.popen.communicate(timeout=120)
        return self.popen.returncode, said


@contextmanager
def process(folder: Path, *options: str) -> Iterator[Process]:
    running = Process(folder, *options)
    try:
        yield running
    finally:
        running.popen.kill()
        running.popen.communicate()
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
        assert running.end()[0] == 0


def test_a_lost_engine_ends_the_process_with_the_reason(folder: Path) -> None:
    with process(folder) as running:
        running.until("ready")
        running.tell("kill")
        error = running.recommend().exception(timeout=60)
        assert isinstance(error, grpc.RpcError)
        assert error.code() == grpc.StatusCode.UNAVAILABLE
        code, said = running.end()
        assert code == 1
        assert "error: the engine is lost: ExecutorLostError: the device fell off" in said


def test_an_engine_that_fails_its_self_test_never_serves(folder: Path) -> None:
    with process(folder, "--is-damaged") as running:
        code, said = running.end()
        assert code == 1
        assert "error: the self-test failed: in arm 'parallel', on slice 0, cached blocks score" in said
