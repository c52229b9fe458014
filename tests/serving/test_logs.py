"""Logs: each line carries the id of the request that it is about, whichever thread writes it; none quotes callers."""

import io
import json
import logging
from datetime import datetime

import grpc
import pytest
from fake_router import FakeRouter
from fake_slice import Slices
from google.rpc import error_details_pb2
from grpc_status import rpc_status

from rcjax.engine.request_id import current_request_id, working_on
from rcjax.serving.server import Addresses, Server, running_server
from rcjax.serving.telemetry import Telemetry, console_for, logging_as
from rcjax.serving.telemetry.line_limit import LineLimit
from rcjax.serving.telemetry.request_ids import request_id_of
from rcjax.serving.v1 import rcjax_pb2, rcjax_pb2_grpc

logger = logging.getLogger("rcjax.tests")


def call(
    addresses: Addresses, *item_ids: str, request_id: str | None = None, user_id: str = "ann"
) -> grpc.RpcError | None:
    """Asks for a ranking; the error that came instead."""
    metadata = () if request_id is None else (("x-request-id", request_id),)
    candidates = [rcjax_pb2.Candidate(item_id=item_id) for item_id in item_ids]
    request = rcjax_pb2.RecommendRequest(user_id=user_id, candidates=candidates)
    with grpc.insecure_channel(addresses.main) as channel:
        try:
            rcjax_pb2_grpc.RecommenderStub(channel).Recommend(request, timeout=60, metadata=metadata)
        except grpc.RpcError as error:
            return error
    return None


def request_id_in(error: grpc.RpcError | None) -> str:
    """What an error's details call the request."""
    status = rpc_status.from_call(error)
    for detail in status.details:
        info = error_details_pb2.ErrorInfo()
        if detail.Unpack(info):
            return info.metadata["request_id"]
    raise AssertionError(status)


def lines_of(stream: io.StringIO) -> list[dict]:
    return [json.loads(line) for line in stream.getvalue().splitlines()]


def test_a_json_line_is_an_object_with_all_that_is_known() -> None:
    stream = io.StringIO()
    with logging_as("json", stream), working_on("r-1"):
        logger.info("two\nlines and ü: %d", 7)
        try:
            raise ValueError("broken")
        except ValueError:
            logger.exception("it failed")
    with logging_as("json", stream):
        logger.warning("about no request")
        logging.getLogger("jax").info("not told: of another package")
    first, second, third = lines_of(stream)
    assert datetime.fromisoformat(first.pop("time")).tzinfo is not None
    assert first == {"level": "INFO", "logger": "rcjax.tests", "message": "two\nlines and ü: 7", "request_id": "r-1"}
    assert second["exception"].splitlines()[0].startswith("Traceback")
    assert second["exception"].endswith("ValueError: broken")
    assert "request_id" not in third


def test_people_get_one_line_with_the_id_at_its_end() -> None:
    stream = io.StringIO()
    with logging_as("rich", stream), working_on("r-2"):
        logger.warning("[bold]not markup[/] " + "x" * 300)
    (line,) = stream.getvalue().splitlines()
    assert line.endswith("[bold]not markup[/] " + "x" * 300 + "  [r-2]")
    assert "WARNING" in line


def test_logging_ends_with_its_block() -> None:
    stream, level = io.StringIO(), logging.getLogger("rcjax").level
    with logging_as("json", stream):
        pass
    logger.warning("later")
    assert (stream.getvalue(), logging.getLogger("rcjax").level) == ("", level)


def test_what_is_printed_for_people_is_logged_where_machines_read() -> None:
    stream = io.StringIO()
    with logging_as("json", stream):
        console = console_for("json")
        console.print("ready: [bold]tiny[/]", "x" * 200)
        console.print("left", end="")
    assert [line["message"] for line in lines_of(stream)] == ["ready: tiny " + "x" * 200]


@pytest.mark.parametrize("given", ["abc", "A.b_c-1:2/3+4=@", "x" * 64])
def test_a_callers_own_id_is_kept(given: str) -> None:
    assert request_id_of({"x-request-id": given}) == given


@pytest.mark.parametrize("given", [None, "", "x" * 65, "two\nlines", "a b", "ü", '{"a":1}', b"bytes"])
def test_an_id_that_could_forge_a_line_is_replaced(given: str | bytes | None) -> None:
    found = [request_id_of({} if given is None else {"x-request-id": given}) for _ in range(2)]
    assert all(len(one) == 32 and int(one, 16) >= 0 for one in found)
    assert found[0] != found[1]


def test_an_rpc_is_a_line_without_anything_of_its_caller() -> None:
    stream = io.StringIO()
    with logging_as("json", stream), running_server(Server(lambda: FakeRouter("item-1"))) as addresses:
        assert call(addresses, "item-1", request_id="mine-1") is None
        error = call(addresses, "item-1", request_id="mine-2", user_id="secret-user")
    assert request_id_in(error) == "mine-2"
    good, bad = [line for line in lines_of(stream) if "rpc" in line]
    assert (good["request_id"], bad["request_id"]) == ("mine-1", "mine-2")
    for line, code in ((good, "OK"), (bad, "NOT_FOUND")):
        assert line["rpc"] | {"seconds": 0} == {
            "method": "/rcjax.v1.Recommender/Recommend", "code": code, "seconds": 0, "num_untold": 0
        }  # fmt: skip
    assert not any(word in stream.getvalue() for word in ("secret-user", "item-1", "ann"))


def test_an_error_without_a_callers_id_names_a_new_one_which_its_lines_have() -> None:
    stream, engine = io.StringIO(), FakeRouter("item-1")

    def fail(asked: object) -> None:
        raise ValueError("a defect")

    engine.before = fail
    with logging_as("json", stream), running_server(Server(lambda: engine)) as addresses:
        error = call(addresses, "item-1")
    request_id = request_id_in(error)
    assert len(request_id) == 32
    assert "a defect" not in error.details()
    failed, ended = lines_of(stream)
    assert failed["exception"].endswith("ValueError: a defect")
    assert (failed["request_id"], ended["request_id"]) == (request_id, request_id)


@pytest.mark.parametrize("where", ["planner", "worker"])
def test_lines_of_the_engines_threads_have_the_id(where: str) -> None:
    stream, slices = io.StringIO(), Slices()
    seen: list[str] = []

    def fail(asked: object) -> None:
        seen.append(current_request_id())
        raise ValueError("a defect")

    slices.planner.before = fail if where == "planner" else lambda asked: None
    slices.worker.before = fail if where == "worker" else lambda name: None
    slices.router.start()
    with logging_as("json", stream), running_server(Server(lambda: slices.router, clock=slices.clock)) as addresses:
        error = call(addresses, "item-1", request_id="mine")
    assert request_id_in(error) == "mine"
    (line,) = [line for line in lines_of(stream) if "exception" in line]
    assert (line["message"], line["request_id"]) == ("a request failed", "mine")
    assert len(seen) == 1


def test_lines_of_rpcs_are_limited_and_say_what_they_leave_out() -> None:
    limit = LineLimit(2)
    assert [limit.take(10.0 + 0.1 * step) for step in range(5)] == [0, 0, None, None, None]
    assert [limit.take(11.0), limit.take(11.5), limit.take(11.9), limit.take(12.0)] == [3, 0, None, 1]
    assert LineLimit(0).take(0.0) is None


def test_no_lines_of_rpcs_where_none_are_wanted() -> None:
    stream = io.StringIO()
    server = Server(lambda: FakeRouter("item-1"), telemetry=Telemetry(max_rpc_lines_per_s=0))
    with logging_as("json", stream), running_server(server) as addresses:
        assert call(addresses, "item-1") is None
    assert stream.getvalue() == ""
