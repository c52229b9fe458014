"""The gRPC server: ports, health, reflection, start-up and shutdown around the services."""

import asyncio
import gc
import signal
import threading
import time
from collections.abc import Callable, Coroutine, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, TypeVar

import grpc
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection

from rcjax.config import Limits
from rcjax.errors import UnavailableError
from rcjax.request import EngineInfo
from rcjax.serving.connection_options import connection_options
from rcjax.serving.interceptor import StatusInterceptor
from rcjax.serving.security import ServerSecurity
from rcjax.serving.service import AdminService, CatalogService, RecommenderService
from rcjax.serving.starting import OwnedEngine, StartingEngine
from rcjax.serving.telemetry import Telemetry
from rcjax.serving.v1 import rcjax_pb2_grpc

T = TypeVar("T")

MAIN_SERVICES = ("rcjax.v1.Recommender", "rcjax.v1.Catalog")
ADMIN_SERVICES = ("rcjax.v1.Admin",)

# After the engine has stopped: for the last answers to leave, and for streams (health watches) to be let go.
_FLUSH_S = 1.0


@dataclass(frozen=True, slots=True)
class Addresses:
    """Where a server listens, as `host:port`; no `metrics` are served where that is empty."""

    main: str
    admin: str
    metrics: str = ""


class Server:
    """Serves the engine that `factory` makes, on a thread of its own, while the server is up already.

    Until it is made, health says NOT_SERVING and calls are answered UNAVAILABLE. Health says NOT_SERVING again when the
    engine is lost, which `lost` tells. Port 0 takes a free one. `grace_s` is what calls that are there get to finish
    when the server stops. `security` says whom it lets in (None: everybody, unencrypted). `clock` is the engine's.
    Life: `start`, `wait_ready`, `stop`, on one event loop.
    """

    def __init__(
        self,
        factory: Callable[[], OwnedEngine],
        *,
        host: str = "127.0.0.1",
        port: int = 0,
        admin_host: str = "127.0.0.1",
        admin_port: int = 0,
        security: ServerSecurity | None = None,
        limits: Limits | None = None,
        telemetry: Telemetry | None = None,
        grace_s: float = 10.0,
        clock: Callable[[], float] = time.monotonic,
    ):
        self._places = ((host, port), (admin_host, admin_port))
        self._security = ServerSecurity.of() if security is None else security
        self._limits = Limits() if limits is None else limits
        self._telemetry = Telemetry() if telemetry is None else telemetry
        self._grace_s = grace_s
        self._clock = clock
        self._starting = StartingEngine(factory)
        self._health = health.aio.HealthServicer()
        self._servers: list[grpc.aio.Server] = []
        self._watch: asyncio.Task[None] | None = None

    async def start(self) -> Addresses:
        """Listens and starts making the engine; `OSError` where an address cannot be had."""
        await self._set_health(health_pb2.HealthCheckResponse.NOT_SERVING)
        main, admin = self._new_server(MAIN_SERVICES), self._new_server(ADMIN_SERVICES)
        engine = self._starting.get
        rcjax_pb2_grpc.add_RecommenderServicer_to_server(RecommenderService(engine, self._clock), main)
        rcjax_pb2_grpc.add_CatalogServicer_to_server(CatalogService(engine, self._clock), main)
        rcjax_pb2_grpc.add_AdminServicer_to_server(AdminService(engine), admin)
        at_main, at_admin = self._places
        at = (self._bind(main, *at_main), self._bind(admin, *at_admin), self._telemetry.start(engine))
        addresses = Addresses(*at)
        for server in (main, admin):
            await server.start()
            self._servers.append(server)
        self._starting.start()
        return addresses

    async def wait_ready(self) -> EngineInfo:
        """Waits for the engine and says SERVING; raises what the factory raised."""
        info = await asyncio.wrap_future(self._starting.ready)
        await self._set_health(health_pb2.HealthCheckResponse.SERVING)
        self._watch = asyncio.create_task(self._watch_engine())
        return info

    async def lost(self) -> None:
        """Waits, once the server is ready, for the loss of its engine; raises `UnavailableError` from what ended it."""
        if self._watch is None:
            raise RuntimeError("wait until the server is ready")
        await asyncio.shield(self._watch)

    async def stop(self) -> None:
        """Says NOT_SERVING, refuses new calls, finishes those that are there within `grace_s`, and closes."""
        await self._health.enter_graceful_shutdown()
        if self._watch is not None:
            self._watch.cancel()
            await asyncio.gather(self._watch, return_exceptions=True)
        await self._starting.stop(self._grace_s)
        await asyncio.gather(*(server.stop(_FLUSH_S) for server in self._servers))
        await asyncio.to_thread(self._telemetry.stop)

    async def _watch_engine(self) -> None:
        try:
            await asyncio.wrap_future(self._starting.lost)
        except Exception as error:
            await self._set_health(health_pb2.HealthCheckResponse.NOT_SERVING)
            raise UnavailableError(f"the engine is lost: {type(error).__name__}: {error}") from error

    def _new_server(self, services: tuple[str, ...]) -> grpc.aio.Server:
        options = [
            *connection_options(self._limits),
            ("grpc.so_reuseport", 0),  # else a second server on a taken port would share its calls, silently
        ]
        interceptors = [self._telemetry.interceptor, self._security.interceptor, StatusInterceptor()]
        server = grpc.aio.server(interceptors=interceptors, options=options)
        health_pb2_grpc.add_HealthServicer_to_server(self._health, server)
        reflection.enable_server_reflection((*services, health.SERVICE_NAME, reflection.SERVICE_NAME), server)
        return server

    def _bind(self, server: grpc.aio.Server, host: str, port: int) -> str:
        host = f"[{host}]" if ":" in host else host
        address, credentials = f"{host}:{port}", self._security.credentials()
        try:
            if credentials is None:
                return f"{host}:{server.add_insecure_port(address)}"
            return f"{host}:{server.add_secure_port(address, credentials)}"
        except RuntimeError as error:
            message = f"cannot listen on {address}: is the port taken, or the host another machine's?"
            raise OSError(message) from error

    async def _set_health(self, status: health_pb2.HealthCheckResponse.ServingStatus) -> None:
        for name in ("", *MAIN_SERVICES, *ADMIN_SERVICES):
            await self._health.set(name, status)


async def serve(
    server: Server,
    *,
    on_listening: Callable[[Addresses], None] = lambda addresses: None,
    on_ready: Callable[[EngineInfo], None] = lambda info: None,
) -> None:
    """Runs a server until SIGTERM or SIGINT, then lets it finish.

    Raises what its factory raised, and `UnavailableError` when its engine is lost. For the main thread, as only it can
    handle signals: `asyncio.run(serve(Server(factory)))`.
    """
    loop = asyncio.get_running_loop()
    is_asked = asyncio.Event()
    signals = (signal.SIGTERM, signal.SIGINT)
    for number in signals:
        loop.add_signal_handler(number, is_asked.set)
    asked = asyncio.create_task(is_asked.wait())
    running = asyncio.create_task(_run(server, on_listening, on_ready))
    try:
        await asyncio.wait({asked, running}, return_when=asyncio.FIRST_COMPLETED)
        if running.done():
            running.result()
    finally:
        for task in (asked, running):
            task.cancel()
        await asyncio.gather(asked, running, return_exceptions=True)
        await server.stop()
        for number in signals:
            loop.remove_signal_handler(number)


async def _run(
    server: Server, on_listening: Callable[[Addresses], None], on_ready: Callable[[EngineInfo], None]
) -> None:
    """Starts a server, and ends only with an exception."""
    on_listening(await server.start())
    info = await server.wait_ready()
    freeze_start_up()
    on_ready(info)
    await server.lost()


def freeze_start_up() -> None:
    """Takes what start-up made out of the garbage collector's sight, for the rest of the process.

    A catalogue is millions of objects that stay, and the collector looks at all of them again and again: without this
    the host answers a tenth fewer requests (benchmarks/host.py), and some wait for 100 ms and more.
    """
    gc.collect()
    gc.freeze()


@contextmanager
def running_server(server: Server) -> Iterator[Addresses]:
    """A server that is ready, on an event loop in a background thread; stopped on exit."""
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever, name="rcjax-server")
    thread.start()

    def run(work: Coroutine[Any, Any, T]) -> T:
        return asyncio.run_coroutine_threadsafe(work, loop).result()

    try:
        addresses = run(server.start())
        run(server.wait_ready())
        yield addresses
    finally:
        run(server.stop())
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
        loop.close()
