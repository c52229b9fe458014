"""From settings to an engine that holds a catalogue, with progress for a person to watch."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeElapsedColumn

from rcjax.catalog import Catalogue, Item
from rcjax.config import Settings, read_catalogue
from rcjax.engine.engine import RecommendEngine
from rcjax.errors import InvalidRequestError
from rcjax.model.spec import Model
from rcjax.serving.server import Server
from rcjax.serving.startup import shapes_of, start_engine

_SOME_RANK_SHAPE = (1, 1)


@dataclass(frozen=True, slots=True)
class FillReport:
    """What went into an engine; `num_built` blocks were computed, the others were in its cache already."""

    num_items: int
    num_users: int
    num_tokens: int
    num_built: int


@contextmanager
def announced(console: Console) -> Iterator[Callable[[str], None]]:
    """Takes what is about to happen: a spinner on a terminal, lines elsewhere."""
    if not console.is_terminal:
        yield lambda step: console.print(step, markup=False, highlight=False)
        return
    with console.status("starting") as status:
        yield lambda step: status.update(escape(step))


def deploy(
    settings: Settings,
    catalogue: Catalogue,
    console: Console,
    *,
    snapshot: Path | None = None,
    model: Model | None = None,
) -> RecommendEngine:
    """A started engine that holds `catalogue`; blocks found in the `snapshot` folder are not computed again."""
    with announced(console) as announce:
        engine = start_engine(settings, model=model, progress=announce)
        if snapshot is not None:
            from rcjax.cache.snapshot.snapshot import restore_cache

            announce(f"restoring {snapshot}")
            restored = restore_cache(engine.cache, snapshot)
            console.print(
                f"restored {restored.num_blocks:,} blocks; {restored.num_skipped:,} did not fit, "
                f"{len(restored.corrupt):,} are corrupt and will be computed again"
            )
    fill(engine, catalogue, settings, console)
    if settings.semantic_arms:
        with announced(console) as announce:
            announce("filling the semantic pool")
            num_prototypes = engine.build_semantic_pool()
        console.print(f"{num_prototypes:,} tokens of users' histories are in the semantic pool", highlight=False)
    return engine


def build_snapshot(console: Console, settings: Settings, folder: Path, *, model: Model | None = None) -> None:
    """Computes the KV of the settings' items and users, saves it in `folder`, and prints how much there is."""
    from rcjax.cache.snapshot.snapshot import save_cache

    catalogue = read_catalogue(settings.catalogue)
    # Nothing is ranked here, so nothing need be compiled for it.
    shapes = settings.shapes.model_copy(update={"rank": (_SOME_RANK_SHAPE,)})
    with announced(console) as announce:
        engine = start_engine(settings.model_copy(update={"shapes": shapes}), model=model, progress=announce)
    report = fill(engine, catalogue, settings, console)
    with announced(console) as announce:
        announce(f"saving {folder}")
        save_cache(engine.cache, folder)
    num_bytes = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
    console.print(
        f"{folder}: {report.num_items:,} items and {report.num_users:,} users, {report.num_tokens:,} tokens, "
        f"{num_bytes / 2**20:,.0f} MiB",
        markup=False,
        highlight=False,
    )


def new_server(
    settings: Settings, factory: Callable[[], RecommendEngine], *, host: str, ports: tuple[int, int]
) -> Server:
    """A server with the settings' limits; `ports` are the main and the admin one, 0 for a free one."""
    return Server(
        factory,
        host=host,
        port=ports[0],
        admin_port=ports[1],
        max_queue=settings.server.max_queue,
        # Requests beyond what one pass takes would only wait for each other.
        max_batch=max(shape.batch for shape in shapes_of("rank", settings.shapes)),
        grace_s=settings.server.grace_s,
    )


def fill(engine: RecommendEngine, catalogue: Catalogue, settings: Settings, console: Console) -> FillReport:
    """Puts the items and users, showing progress; those over the limits are left out with a warning."""
    if not catalogue.items:
        raise ValueError("the catalogue has no items")
    columns = ("{task.description}", BarColumn(), MofNCompleteColumn(), TextColumn("{task.fields[rate]}"))
    before = engine.stats().num_misses
    with Progress(*columns, TimeElapsedColumn(), console=console) as bar:
        items = _Meter(bar, "items", len(catalogue.items))
        left_out = _fill_items(engine, catalogue, max(settings.shapes.build)[0], items)
        users = _Meter(bar, "users", len(catalogue.users))
        left_out += _fill_users(engine, catalogue, users)
    if left_out:
        console.print(f"{len(left_out)} items or users left out; first: {left_out[0]}", style="yellow", markup=False)
    if not items.num_put:
        raise ValueError(f"no item fits the limits: {left_out[0]}")
    num_built = engine.stats().num_misses - before
    num_chosen = engine.choose_orders()  # 0 where no arm has the offline policy
    if num_chosen:
        console.print(f"positions to correct offline chosen for {num_chosen:,} items")
    return FillReport(items.num_put, users.num_put, items.num_tokens + users.num_tokens, num_built)


class _Meter:
    """One progress bar, which also shows how many of its things and tokens go in per second."""

    def __init__(self, bar: Progress, what: str, total: int):
        self._bar = bar
        self._what = what
        self._task: TaskID = bar.add_task(f"caching {what}", total=total, rate="")
        self.num_put = 0
        self.num_tokens = 0

    def put(self, number: int, num_tokens: int) -> None:
        self.num_put += number
        self.num_tokens += num_tokens
        self._bar.advance(self._task, number)
        elapsed_s = self._bar.tasks[self._task].elapsed
        rate = f", {self.num_put / elapsed_s:.1f} {self._what}/s" if elapsed_s else ""
        self._bar.update(self._task, rate=f"{self.num_tokens:,} tokens{rate}")

    def skip(self) -> None:
        self._bar.advance(self._task)


def _fill_items(
    engine: RecommendEngine, catalogue: Catalogue, pass_tokens: int, meter: _Meter
) -> list[InvalidRequestError]:
    left_out = []
    fitting: list[tuple[Item, int]] = []
    for item in catalogue.items.values():
        try:
            fitting.append((item, len(engine.library.checked_item(item, "item"))))
        except InvalidRequestError as error:
            left_out.append(error)
            meter.skip()
    for items, num_tokens in _passes(fitting, pass_tokens):
        engine.put_items(items)
        meter.put(len(items), num_tokens)
    return left_out


def _fill_users(engine: RecommendEngine, catalogue: Catalogue, meter: _Meter) -> list[InvalidRequestError]:
    left_out = []
    for user in catalogue.users.values():
        try:
            engine.put_user(user)
        except InvalidRequestError as error:
            left_out.append(error)
            meter.skip()
        else:
            meter.put(1, len(engine.library.history(user.user_id)))
    return left_out


def _passes(items: Sequence[tuple[Item, int]], max_tokens: int) -> Iterator[tuple[list[Item], int]]:
    """As many items as one build pass computes: putting in other groups would leave part of some passes unused."""
    group: list[Item] = []
    num_tokens = 0
    for item, num in items:
        if group and num_tokens + num > max_tokens:
            yield group, num_tokens
            group, num_tokens = [], 0
        group.append(item)
        num_tokens += num
    if group:
        yield group, num_tokens
