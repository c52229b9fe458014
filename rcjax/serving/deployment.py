"""From settings to an engine that holds a catalogue, to a snapshot of it, or to a server."""

import logging
import threading
from collections.abc import Callable
from pathlib import Path

from rich.console import Console

from rcjax.catalog import Catalogue
from rcjax.config import Settings, ShapeSize, read_catalogue
from rcjax.disk import make_folder
from rcjax.errors import InvalidRequestError, NotFoundError, RcjaxError
from rcjax.model.spec import Model
from rcjax.serving import snapshots
from rcjax.serving.filling import fill
from rcjax.serving.local import LocalEngine
from rcjax.serving.progress import announced, noted
from rcjax.serving.security import CertificateFiles, ServerSecurity
from rcjax.serving.server import Server
from rcjax.serving.snapshots import Snapshots, UnderWay
from rcjax.serving.starting import OwnedEngine
from rcjax.serving.startup import start_engine
from rcjax.serving.telemetry import telemetry_of

logger = logging.getLogger(__name__)

_SOME_RANK_SHAPE = ShapeSize(fresh_tokens=1, num_pages=1)


def deploy(
    settings: Settings,
    catalogue: Catalogue,
    console: Console,
    *,
    snapshot: Path | None = None,
    model: Model | None = None,
    self_test: bool = False,
    start: Callable[[Callable[[str], None]], LocalEngine] | None = None,
) -> LocalEngine:
    """A started engine that holds `catalogue`, and before that what a snapshot has: of items the catalogue's content
    wins, of users the snapshot's, as they may have got events since. `start`, which is told whom to announce its steps
    to, starts another engine than one of this process alone.

    The snapshot is the newest of the folder `snapshot`, which must be of use, else that of the settings, if it is. Only
    its hottest blocks are there when this returns; the others follow. An engine that cannot be filled is closed.
    """
    with announced(console) as announce:
        if start is not None:
            engine = start(announce)
        else:
            engine = start_engine(settings, model=model, progress=announce, self_test=self_test)
    try:
        _fill(engine, settings, catalogue, console, snapshot)
    except BaseException:
        if engine.router.snapshots is not None:
            engine.router.snapshots.skip_last()
        engine.close()
        raise
    return engine


def _fill(
    engine: LocalEngine, settings: Settings, catalogue: Catalogue, console: Console, snapshot: Path | None
) -> None:
    with announced(console) as announce:
        restored = _begin_restore(engine, settings, snapshot, announce, console)
    try:
        fill(engine, catalogue, console)
    finally:
        if restored is not None:
            threading.Thread(target=_finish_restore, args=(restored,), name="rcjax-restore", daemon=True).start()
    if settings.semantic_arms:
        with announced(console) as announce:
            announce("filling the semantic pool")
            num_prototypes = engine.build_semantic_pool()
        console.print(f"{num_prototypes:,} tokens of users' histories are in the semantic pool", highlight=False)


def _begin_restore(
    engine: LocalEngine, settings: Settings, snapshot: Path | None, announce: Callable[[str], None], console: Console
) -> UnderWay | None:
    """Restores the hottest blocks; None where there is nothing to restore."""
    where = settings.snapshot.where if snapshot is None else snapshot
    if where is None:
        return None
    announce(f"restoring {where}")
    keeper = engine.router.snapshots if snapshot is None else Snapshots(engine.router, where)
    assert isinstance(keeper, Snapshots)
    try:
        restored = keeper.begin_restore(hot_share=settings.snapshot.hot_share)
    except (InvalidRequestError, NotFoundError) as error:
        if snapshot is not None:
            raise
        # A roll-out of other weights finds the snapshots of the former ones; the next is taken of these.
        console.print(f"nothing is restored: {error}", style="yellow", markup=False)
        return None
    report = restored.report
    console.print(
        f"restored {report.num_items:,} items, {report.num_users:,} users and the {report.num_blocks:,} hottest "
        f"blocks; {report.num_skipped:,} do not fit, {len(report.corrupt):,} are corrupt and will be computed again",
        highlight=False,
    )
    return restored


def _finish_restore(restored: UnderWay) -> None:
    """Restores what is left, in the background."""
    try:
        report = restored.finish()
    except RcjaxError as error:  # the server stops, or has lost a slice
        logger.warning("a restore ended early: %s", error)
    except Exception:
        logger.exception("a restore ended early; what is missing is computed when it is asked for")
    else:
        logger.info("restored %d blocks in all; %d are corrupt", report.num_blocks, len(report.corrupt))


def build_snapshot(console: Console, settings: Settings, folder: Path, *, model: Model | None = None) -> None:
    """Computes the KV of the settings' items and users, saves it in `folder`, and prints how much there is.

    `DiskError` where the folder cannot be written.
    """
    make_folder(folder)  # before what takes long
    catalogue = read_catalogue(settings.catalogue, tell=noted(console))
    # Nothing is ranked here, so nothing need be compiled for it.
    shapes = settings.shapes.model_copy(update={"rank": (_SOME_RANK_SHAPE,)})
    with announced(console) as announce:
        engine = start_engine(settings.model_copy(update={"shapes": shapes}), model=model, progress=announce)
    with engine:
        report = fill(engine, catalogue, console)
        with announced(console) as announce:
            announce(f"saving {folder}")
            snapshots.save(engine, folder)
    num_bytes = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
    console.print(
        f"{folder}: {report.num_items:,} items and {report.num_users:,} users, {report.num_tokens:,} tokens, "
        f"{num_bytes / 2**20:,.0f} MiB, by weights in {engine.info().dtype} ({engine.info().dtype_reason})",
        markup=False,
        highlight=False,
    )


def new_server(settings: Settings, factory: Callable[[], OwnedEngine]) -> Server:
    """A server of the engine that `factory` makes; ValueError where a certificate or the tokens cannot be used."""
    server = settings.server
    for place in server.open_places:
        logger.warning("server.%s is open to all who reach it; set server.tokens, or server.tls.client_ca", place)
    tls = server.tls
    files = None if tls is None else CertificateFiles(tls.cert, tls.key, tls.client_ca)
    return Server(
        factory,
        host=server.host,
        port=server.port,
        admin_host=server.admin_host,
        admin_port=server.admin_port,
        security=ServerSecurity.of(files, server.tokens, tenants=server.tenants),
        limits=settings.limits,
        telemetry=telemetry_of(settings.telemetry),
        grace_s=server.grace_s,
    )
