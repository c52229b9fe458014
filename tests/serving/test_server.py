"""The server around the services: start-up, health, reflection, cancellation and shutdown."""

import asyncio
import os
import signal
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import grpc
import pytest
from fake_engine import INFO, FakeEngine, Gate
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc

from rcjax.errors import UnavailableError
from rcjax.request import RecommendRequest
from rcjax.serving.client import RecommenderClient
from rcjax.serving.server import Addresses, Server, running_server, serve
from rcjax.serving.v1 import rcjax_pb2, rcjax_pb2_grpc

SERVING = health_pb2.HealthCheckResponse.SERVING
NOT_SERVING = health_pb2.HealthCheckResponse.NOT_SERVING
MAIN = {"rcjax.v1.Recommender", "rcjax.v1.Catalog"}
ADMIN = {"rcjax.v1.Admin"}


class Started:
    """A server that listens on this event loop, and channels to it."""

    def __init__(self, server: Server, addresses: Addresses):
        self.server = server
        self.addresses = addresses
        self.main = grpc.aio.insecure_channel(addresses.main)
        self.admin = grpc.aio.insecure_channel(addresses.admin)
        self.recommender = rcjax_pb2_grpc.RecommenderStub(self.main)

    def recommend(self, item_id: str) -> grpc.aio.UnaryUnaryCall:
        candidates = [rcjax_pb2.Candidate(item_id=item_id)]
        request = rcjax_pb2.RecommendRequest(user_id="ann", candidates=candidates)
        return self.recommender.Recommend(request, timeout=60)

    async def health(self, channel: grpc.aio.Channel, name: str) -> int:
        request = health_pb2.HealthCheckRequest(service=name)
        return (await health_pb2_grpc.HealthStub(channel).Check(request, timeout=60)).status

    async def all_health(self) -> set[int]:
        main = {await self.health(self.main, name) for name in ("", *MAIN)}
        return main | {await self.health(self.admin, name) for name in ("", *ADMIN)}


@asynccontextmanager
async def started(server: Server) -> AsyncIterator[Started]:
    running = Started(server, await server.start())
    try:
        yield running
    finally:
        await server.stop()
        await running.main.close()
        await running.admin.close()


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(60):
        while not condition():
            await asyncio.sleep(0)


async def code_of(call: grpc.aio.UnaryUnaryCall) -> grpc.StatusCode:
    with pytest.raises(grpc.aio.AioRpcError):
        await call
    return await call.code()


def test_not_serving_while_the_engine_is_made_then_serving_then_not() -> None:
    gate, engine = Gate(), FakeEngine("item-1")

    def factory() -> FakeEngine:
        gate(None)
        return engine

    async def main() -> None:
        async with started(Server(factory)) as running:
            assert await running.all_health() == {NOT_SERVING}
            call = running.recommend("item-1")
            assert await code_of(call) == grpc.StatusCode.UNAVAILABLE
            assert "starting" in await call.details()
            request = health_pb2.HealthCheckRequest()
            watch = health_pb2_grpc.HealthStub(running.main).Watch(request, timeout=60)
            assert (await watch.read()).status == NOT_SERVING
            gate.open.set()
            assert await running.server.wait_ready() == INFO
            assert (await watch.read()).status == SERVING
            assert await running.all_health() == {SERVING}
            assert (await running.recommend("item-1")).ranking[0].score == 1.0
            stopping = asyncio.ensure_future(running.server.stop())
            assert (await watch.read()).status == NOT_SERVING
            await stopping

    asyncio.run(main())


@pytest.mark.parametrize("port", ["main", "admin"])
def test_reflection_lists_the_services_of_each_port(port: str) -> None:
    with (
        running_server(Server(FakeEngine)) as addresses,
        grpc.insecure_channel(getattr(addresses, port)) as channel,
    ):
        stub = reflection_pb2_grpc.ServerReflectionStub(channel)
        request = reflection_pb2.ServerReflectionRequest(list_services="")
        (response,) = stub.ServerReflectionInfo(iter([request]), timeout=60)
        names = {service.name for service in response.list_services_response.service}
        standard = {"grpc.health.v1.Health", "grpc.reflection.v1alpha.ServerReflection"}
        assert names == (MAIN if port == "main" else ADMIN) | standard
        for name in names:
            request = reflection_pb2.ServerReflectionRequest(file_containing_symbol=name)
            (response,) = stub.ServerReflectionInfo(iter([request]), timeout=60)
            assert response.file_descriptor_response.file_descriptor_proto


def test_unknown_service_has_no_health() -> None:
    async def main() -> None:
        async with started(Server(FakeEngine)) as running:
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await running.health(running.main, "rcjax.v1.Nonsense")
            assert caught.value.code() == grpc.StatusCode.NOT_FOUND

    asyncio.run(main())


def test_cancelled_call_never_reaches_the_engine() -> None:
    gate, engine = Gate(), FakeEngine("item-1", "item-2")

    async def main() -> None:
        async with started(Server(lambda: engine)) as running:
            await running.server.wait_ready()
            thread = running.server.engine_thread
            held = asyncio.ensure_future(thread.call(gate))
            await asyncio.to_thread(gate.entered.wait, 60)
            cancelled = running.recommend("item-1")
            kept = running.recommend("item-2")
            await until(lambda: thread.num_waiting == 2)
            cancelled.cancel()
            await until(lambda: thread.num_waiting == 1)
            gate.open.set()
            await held
            assert (await kept).ranking[0].score == 2.0
        assert engine.calls == [("recommend", (RecommendRequest(("item-2",), "ann"),))]

    asyncio.run(main())


def test_stop_finishes_what_waits_and_refuses_more() -> None:
    gate, engine = Gate(), FakeEngine("item-1", "item-2")

    async def main() -> None:
        async with started(Server(lambda: engine, grace_s=60.0)) as running:
            await running.server.wait_ready()
            held = asyncio.ensure_future(running.server.engine_thread.call(gate))
            await asyncio.to_thread(gate.entered.wait, 60)
            waiting = running.recommend("item-1")
            await until(lambda: running.server.engine_thread.num_waiting == 1)
            stopping = asyncio.ensure_future(running.server.stop())
            await asyncio.sleep(0)
            refused = running.recommend("item-2")
            assert await code_of(refused) == grpc.StatusCode.UNAVAILABLE
            assert "stopping" in await refused.details()
            assert await running.all_health() == {NOT_SERVING}
            gate.open.set()
            assert (await waiting).ranking[0].score == 1.0
            await held
            await stopping
            assert await code_of(running.recommend("item-1")) == grpc.StatusCode.UNAVAILABLE

    asyncio.run(main())


def test_what_grace_does_not_cover_is_answered_unavailable() -> None:
    gate, engine = Gate(), FakeEngine("item-1")
    engine.before["recommend"] = gate

    async def main() -> None:
        async with started(Server(lambda: engine, grace_s=0.0, max_batch=1)) as running:
            await running.server.wait_ready()
            calls = [running.recommend("item-1")]
            await asyncio.to_thread(gate.entered.wait, 60)
            calls.append(running.recommend("item-1"))
            await until(lambda: running.server.engine_thread.num_waiting == 1)
            await running.server.stop()
            for call in calls:
                assert await code_of(call) == grpc.StatusCode.UNAVAILABLE
                assert "stopped before this call was done" in await call.details()
            gate.open.set()

    asyncio.run(main())
    assert len(engine.calls) == 1


def test_taken_port_is_an_error() -> None:
    with running_server(Server(FakeEngine)) as addresses:
        port = int(addresses.main.rsplit(":")[1])
        with (
            pytest.raises(OSError, match=f"cannot listen on 127.0.0.1:{port}"),
            running_server(Server(FakeEngine, admin_port=port)),
        ):
            pass


def test_factory_that_fails_stops_the_server_with_its_error() -> None:
    def factory() -> FakeEngine:
        raise FileNotFoundError("no weights here")

    with pytest.raises(FileNotFoundError, match="no weights"), running_server(Server(factory)):
        pass
    with pytest.raises(FileNotFoundError, match="no weights"):
        asyncio.run(serve(Server(factory)))


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_serve_ends_cleanly_on_a_signal(number: signal.Signals) -> None:
    said: list[object] = []

    def on_ready(info: object) -> None:
        said.append(info)
        os.kill(os.getpid(), number)

    asyncio.run(serve(Server(FakeEngine), on_listening=said.append, on_ready=on_ready))
    addresses, info = said
    assert isinstance(addresses, Addresses)
    assert info == INFO
    with RecommenderClient(addresses.main) as client, pytest.raises(UnavailableError):
        client.delete_user("ann")
    assert signal.getsignal(signal.SIGTERM) == signal.SIG_DFL


def test_signal_while_the_engine_is_made_ends_the_server() -> None:
    gate = Gate()

    def factory() -> FakeEngine:
        os.kill(os.getpid(), signal.SIGTERM)
        gate(None)
        return FakeEngine()

    asyncio.run(serve(Server(factory, grace_s=0.0)))
    gate.open.set()


def test_client_waits_for_a_server_that_is_starting() -> None:
    with running_server(Server(FakeEngine)) as addresses, RecommenderClient(addresses.main) as client:
        client.wait_ready(60.0)
        assert client.delete_user("ann")


def test_client_waits_no_longer_than_asked() -> None:
    async def main() -> None:
        gate = Gate()
        server = Server(lambda: gate(None) or FakeEngine(), grace_s=60.0)
        async with started(server) as running:
            with RecommenderClient(running.addresses.main) as client:
                with pytest.raises(UnavailableError, match=r"not ready within 0.1 s"):
                    await asyncio.to_thread(client.wait_ready, 0.1)
                waiting = asyncio.ensure_future(asyncio.to_thread(client.wait_ready, 60.0))
                gate.open.set()
                await server.wait_ready()
                await waiting

    asyncio.run(main())
