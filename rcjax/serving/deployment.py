"""From settings to an engine that holds a catalogue, to a snapshot of it, or to a server."""

from collections.abc import Callable
from pathlib import Path

from rich.console import Console

from rcjax.catalog import Catalogue
from rcjax.config import Settings, ShapeSize, read_catalogue
from rcjax.disk import make_folder
from rcjax.model.spec import Model
from rcjax.serving import snapshots
from rcjax.serving.filling import fill
from rcjax.serving.local import LocalEngine
from rcjax.serving.progress import announced, noted
from rcjax.serving.server import Server
from rcjax.serving.starting import OwnedEngine
from rcjax.serving.startup import start_engine

_SOME_RANK_SHAPE = ShapeSize(fresh_tokens=1, num_pages=1)


def deploy(
    settings: Settings,
    catalogue: Catalogue,
    console: Console,
    *,
    snapshot: Path | None = None,
    model: Model | None = None,
) -> LocalEngine:
    """A started engine that holds `catalogue`; blocks found in the `snapshot` folder are not computed again."""
    with announced(console) as announce:
        engine = start_engine(settings, model=model, progress=announce)
        if snapshot is not None:
            announce(f"restoring {snapshot}")
            restored = snapshots.restore(engine, snapshot)
            console.print(
                f"restored {restored.num_blocks:,} blocks; {restored.num_skipped:,} did not fit, "
                f"{len(restored.corrupt):,} are corrupt and will be computed again"
            )
    fill(engine, catalogue, console)
    if settings.semantic_arms:
        with announced(console) as announce:
            announce("filling the semantic pool")
            num_prototypes = engine.build_semantic_pool()
        console.print(f"{num_prototypes:,} tokens of users' histories are in the semantic pool", highlight=False)
    return engine


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


def new_server(settings: Settings, factory: Callable[[], OwnedEngine], *, host: str, ports: tuple[int, int]) -> Server:
    """A server of the engine that `factory` makes; `ports` are the main and the admin one, 0 for a free one."""
    return Server(factory, host=host, port=ports[0], admin_port=ports[1], grace_s=settings.server.grace_s)
