"""Drives a block cache without threads: each pass is waited for where it is started."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress

from rcjax.cache import CachedBlock
from rcjax.engine.block_cache import BlockCache
from rcjax.engine.claim import Claim
from rcjax.engine.executor import Pending
from rcjax.engine.plan import PlannedBlock
from rcjax.engine.tasks import Steps, T
from rcjax.prompt import Block


class Done(Pending):
    """A pass that is over: `value` is what it gave, or what reading it out raises."""

    def __init__(self, program, value, start_s=0.0):
        self.program = program
        self.start_s = start_s
        self.num_rows, self.num_tokens = program.shape.batch, 0
        self._value = value

    def is_ready(self) -> bool:
        return True

    def result(self):
        if isinstance(self._value, BaseException):
            raise self._value
        return self._value


def changed(start: Callable, change: Callable) -> Callable:
    """A method of an executor like `start`, but that `change` is called on what a pass gave."""

    def run(*args):
        pending = start(*args)
        return Done(pending.program, change(pending.result()), pending.start_s)

    return run


def planned(cache: BlockCache, block: Block) -> PlannedBlock:
    return PlannedBlock(block, cache.keys.key(block.kind, block.owner, block.token_ids))


def build_all(cache: BlockCache, claim: Claim | None = None) -> None:
    """Runs build passes until none is left, or one failed that `claim` waits for."""
    while cache.has_builds and not (claim and claim.error):
        group = cache.next_builds()
        with suppress(Exception):
            drain(cache, cache.run_builds(group))


def drain(cache: BlockCache, steps: Steps[T]) -> T:
    """Takes a task to its end. A claim that has to wait for pages would wait for ever, so that is an error."""
    value, error = None, None
    while True:
        try:
            wanted = steps.send(value) if error is None else steps.throw(error)
        except StopIteration as end:
            return end.value
        value, error = None, None
        if isinstance(wanted, Claim):
            error = _grant(cache, wanted)
            if error is not None and wanted.pins:
                cache.release(wanted)
        elif wanted is not None:
            try:
                value = wanted.result()
            except Exception as failure:
                error = failure


def _grant(cache: BlockCache, claim: Claim) -> BaseException | None:
    """Grants a claim and builds what misses; what went wrong, if anything did."""
    try:
        assert cache.grant(claim), "it would have to wait"
    except Exception as error:
        return error
    build_all(cache, claim)
    return claim.error


@contextmanager
def held(cache: BlockCache, blocks: Sequence[Block], version: int = 0) -> Iterator[tuple[list[CachedBlock], list[int]]]:
    """The blocks, cached and pinned, and how many tokens were computed for each."""
    claim = Claim([planned(cache, block) for block in blocks], version, is_urgent=True)
    error = _grant(cache, claim)
    try:
        if error is not None:
            raise error
        yield list(claim.pins), list(claim.num_built)
    finally:
        if claim.pins:
            cache.release(claim)
