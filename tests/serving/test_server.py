"""The server around the services: start-up, health, reflection, cancellation and shutdown."""

import asyncio
import os
import signal
import threading
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import grpc
import pytest
from fake_router import INFO, FakeRouter, Gate
from fake_slice import NO_LIMITS, Slices, until_refused
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc

from rcjax.errors import UnavailableError
from rcjax.serving.client import RecommenderClient
from rcjax.serving.router import Router
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


async def code_of(call: grpc.aio.UnaryUnaryCall) -> grpc.StatusCode:
    with pytest.raises(grpc.aio.AioRpcError):
        await call
    return await call.code()


def test_not_serving_while_the_engine_is_made_then_serving_then_not() -> None:
    gate, engine = Gate(), FakeRouter("item-1")

    def factory() -> FakeRouter:
        gate()
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
        running_server(Server(FakeRouter)) as addresses,
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
        async with started(Server(FakeRouter)) as running:
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await running.health(running.main, "rcjax.v1.Nonsense")
            assert caught.value.code() == grpc.StatusCode.NOT_FOUND

    asyncio.run(main())


def test_a_cancelled_call_is_cancelled_in_the_engine() -> None:
    gate, engine = Gate(), FakeRouter("item-1")
    engine.before = gate

    async def main() -> None:
        async with started(Server(lambda: engine)) as running:
            await running.server.wait_ready()
            call = running.recommend("item-1")
            await asyncio.to_thread(gate.entered.wait, 60)
            call.cancel()
            assert await asyncio.to_thread(engine.was_cancelled.wait, 60)
            gate.open.set()

    asyncio.run(main())


def test_stop_finishes_what_is_there_and_refuses_more() -> None:
    gate, slices = Gate(), Slices(limits=NO_LIMITS)
    slices.worker.before = lambda name: gate()

    def factory() -> Router:
        slices.router.start()
        return slices.router

    async def main() -> None:
        async with started(Server(factory, grace_s=60.0, clock=slices.clock)) as running:
            await running.server.wait_ready()
            waiting = running.recommend("item-1")
            await asyncio.to_thread(gate.entered.wait, 60)
            request = health_pb2.HealthCheckRequest()
            watch = health_pb2_grpc.HealthStub(running.main).Watch(request, timeout=60)
            assert (await watch.read()).status == SERVING
            stopping = asyncio.ensure_future(running.server.stop())
            assert (await watch.read()).status == NOT_SERVING
            assert await running.all_health() == {NOT_SERVING}
            await asyncio.to_thread(until_refused, slices)
            refused = running.recommend("item-2")
            assert await code_of(refused) == grpc.StatusCode.UNAVAILABLE
            assert "stopping" in await refused.details()
            gate.open.set()
            assert (await waiting).ranking[0].score == 1.0
            await stopping
            assert await code_of(running.recommend("item-1")) == grpc.StatusCode.UNAVAILABLE

    asyncio.run(main())


def test_what_grace_does_not_cover_is_answered_unavailable() -> None:
    gate, slices = Gate(), Slices()
    slices.worker.before = lambda name: gate()

    def factory() -> Router:
        slices.router.start()
        return slices.router

    async def main() -> None:
        async with started(Server(factory, grace_s=0.0, clock=slices.clock)) as running:
            await running.server.wait_ready()
            call = running.recommend("item-1")
            await asyncio.to_thread(gate.entered.wait, 60)
            await running.server.stop()
            assert await code_of(call) == grpc.StatusCode.UNAVAILABLE
            assert "stopped before this call was done" in await call.details()
            gate.open.set()

    asyncio.run(main())


def test_a_lost_engine_takes_the_server_to_not_serving() -> None:
    slices = Slices()

    def factory() -> Router:
        slices.router.start()
        return slices.router

    async def main() -> None:
        async with started(Server(factory, clock=slices.clock)) as running:
            await running.server.wait_ready()
            request = health_pb2.HealthCheckRequest()
            watch = health_pb2_grpc.HealthStub(running.main).Watch(request, timeout=60)
            assert (await watch.read()).status == SERVING
            assert (await running.recommend("item-1")).ranking[0].score == 1.0
            slices.worker.lost.set_exception(RuntimeError("the device fell off"))
            assert (await watch.read()).status == NOT_SERVING
            with pytest.raises(UnavailableError, match="the engine is lost: RuntimeError: the device fell off"):
                await running.server.lost()
            assert await running.all_health() == {NOT_SERVING}
            call = running.recommend("item-1")
            assert await code_of(call) == grpc.StatusCode.UNAVAILABLE
            assert "lost its engine" in await call.details()

    asyncio.run(main())


def test_an_engine_that_is_lost_before_it_is_ready_is_never_served_for_long() -> None:
    engine = FakeRouter()
    engine.lost.set_exception(RuntimeError("early"))
    with pytest.raises(UnavailableError, match="early"):
        asyncio.run(serve(Server(lambda: engine)))
    assert engine.grace_s == [10.0]


def test_serve_raises_when_its_engine_is_lost() -> None:
    engine = FakeRouter()
    with pytest.raises(UnavailableError, match="the engine is lost: MemoryError: out"):
        asyncio.run(serve(Server(lambda: engine), on_ready=lambda info: engine.lost.set_exception(MemoryError("out"))))


def test_taken_port_is_an_error() -> None:
    with running_server(Server(FakeRouter)) as addresses:
        port = int(addresses.main.rsplit(":")[1])
        with (
            pytest.raises(OSError, match=f"cannot listen on 127.0.0.1:{port}"),
            running_server(Server(FakeRouter, admin_port=port)),
        ):
            pass


def test_factory_that_fails_stops_the_server_with_its_error() -> None:
    def factory() -> FakeRouter:
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

    asyncio.run(serve(Server(FakeRouter), on_listening=said.append, on_ready=on_ready))
    addresses, info = said
    assert isinstance(addresses, Addresses)
    assert info == INFO
    with RecommenderClient(addresses.main) as client, pytest.raises(UnavailableError):
        client.delete_user("ann")
    assert signal.getsignal(signal.SIGTERM) == signal.SIG_DFL


def test_signal_while_the_engine_is_made_ends_the_server_and_later_the_engine() -> None:
    gate, engine, said = Gate(), FakeRouter(), []
    is_stopped = threading.Event()
    engine.stop = lambda grace_s: is_stopped.set()  # type: ignore[method-assign]

    def factory() -> FakeRouter:
        os.kill(os.getpid(), signal.SIGTERM)
        gate()
        return engine

    asyncio.run(serve(Server(factory, grace_s=0.0), on_listening=said.append, on_ready=said.append))
    (addresses,) = said  # and it was never ready
    with RecommenderClient(addresses.main) as client, pytest.raises(UnavailableError):
        client.delete_user("ann")
    assert not is_stopped.is_set()
    gate.open.set()
    assert is_stopped.wait(60)


def test_client_waits_for_a_server_that_is_starting() -> None:
    with running_server(Server(FakeRouter)) as addresses, RecommenderClient(addresses.main) as client:
        client.wait_ready(60.0)
        assert client.delete_user("ann")


def test_client_waits_no_longer_than_asked() -> None:
    async def main() -> None:
        gate = Gate()
        server = Server(lambda: gate() or FakeRouter(), grace_s=60.0)
        async with started(server) as running:
            with RecommenderClient(running.addresses.main) as client:
                with pytest.raises(UnavailableError, match=r"not ready within 0.1 s"):
                    await asyncio.to_thread(client.wait_ready, 0.1)
                waiting = asyncio.ensure_future(asyncio.to_thread(client.wait_ready, 60.0))
                gate.open.set()
                await server.wait_ready()
                await waiting

    asyncio.run(main())
