"""Fanning out: several slices do the same thing, each for its part; one that dies meanwhile is done with it."""

import threading
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future
from typing import Any

from rcjax.errors import UnavailableError
from rcjax.prompt import BlockKind, Owner
from rcjax.serving.parts import BlockToBuild, Worker
from rcjax.serving.scheduler import MissCosts

Then = Callable[[int], None]
Failed = Callable[[Exception], None]


class FanOut:
    """Hands blocks to the slices that live; nobody waits: the last slice's thread calls `then` or `failed`.

    `then` gets the sum of what the slices answer; where it raises, `failed` gets that. A slice whose answer is that it
    is unavailable has ended, which `lose` is told; `failed` gets an `UnavailableError` once none lives.
    """

    def __init__(
        self,
        workers: Sequence[Worker],
        costs: MissCosts,
        alive: Callable[[], tuple[int, ...]],
        lose: Callable[[int], None],
    ):
        self._workers = workers
        self._costs = costs
        self._alive = alive
        self._lose = lose

    def fill(self, parts: Mapping[int, Sequence[BlockToBuild]], version: int, then: Then, failed: Failed) -> None:
        """Makes the blocks of each slice cached there; the sum counts those that had to be computed.

        Where a copy costs less than computing a block again, one of a block's slices computes it before the others ask.
        """
        alive = self._alive()
        parts = {index: blocks for index, blocks in parts.items() if index in alive}
        first, others = parts, dict[int, Sequence[BlockToBuild]]()
        if self._copies_are_cheaper(parts):
            first, others = one_slice_first(parts)

        def then_others(num_first: int) -> None:
            self._fill(others, version, lambda num_others: then(num_first + num_others), failed)

        self._fill(first, version, then_others if others else then, failed)

    def grow(self, former: BlockToBuild, block: BlockToBuild, version: int, then: Then, failed: Failed) -> None:
        """Makes `block` cached on every slice, by extending `former` where that is."""
        self._all(lambda index: self._workers[index].grow(former, block, version), self._alive(), then, failed)

    def drop(
        self, names: Mapping[int, Sequence[tuple[BlockKind, Owner]]], version: int, then: Then, failed: Failed
    ) -> None:
        """Drops from each slice what is named for it."""
        self._all(lambda index: self._workers[index].drop(names[index], version), list(names), then, failed)

    def drop_everywhere(
        self, names: Sequence[tuple[BlockKind, Owner]], version: int, then: Then, failed: Failed
    ) -> None:
        self.drop(dict.fromkeys(self._alive(), names), version, then, failed)

    def _fill(self, parts: Mapping[int, Sequence[BlockToBuild]], version: int, then: Then, failed: Failed) -> None:
        self._all(lambda index: self._workers[index].fill(parts[index], version), list(parts), then, failed)

    def _copies_are_cheaper(self, parts: Mapping[int, Sequence[BlockToBuild]]) -> bool:
        if len(parts) < 2:
            return False
        num_tokens = max(sum(len(planned.block) for planned in blocks) for blocks in parts.values())
        return self._costs.fetch_s(num_tokens) < self._costs.build_s(num_tokens)

    def _all(self, ask: Callable[[int], Future[int]], indices: Sequence[int], then: Then, failed: Failed) -> None:
        alive = self._alive()
        asked = {index: ask(index) for index in indices if index in alive}

        def finish() -> None:
            try:
                then(self._sum(asked))
            except Exception as error:
                failed(error)

        when_all(list(asked.values()), finish)

    def _sum(self, asked: Mapping[int, Future[int]]) -> int:
        """Of what the slices answered; raises the first error that is not a slice's end."""
        total = 0
        for index, future in asked.items():
            try:
                total += future.result()
            except UnavailableError:
                self._lose(index)
        if not self._alive():
            raise UnavailableError("the server has lost all its slices")
        return total


def one_slice_first(
    parts: Mapping[int, Sequence[BlockToBuild]],
) -> tuple[dict[int, Sequence[BlockToBuild]], dict[int, Sequence[BlockToBuild]]]:
    """The parts with each block at one of its slices only, about as many tokens to each, and the parts of the rest."""
    holders: dict[int, list[int]] = {}  # by the block's identity: parts share their blocks
    for index, blocks in parts.items():
        for planned in blocks:
            holders.setdefault(id(planned), []).append(index)
    num_tokens = dict.fromkeys(parts, 0)
    chosen: dict[int, int] = {}
    for blocks in parts.values():
        for planned in blocks:
            if id(planned) not in chosen:
                index = min(holders[id(planned)], key=num_tokens.__getitem__)
                chosen[id(planned)] = index
                num_tokens[index] += len(planned.block)
    first = {index: [one for one in blocks if chosen[id(one)] == index] for index, blocks in parts.items()}
    others = {index: [one for one in blocks if chosen[id(one)] != index] for index, blocks in parts.items()}
    return _without_empty(first), _without_empty(others)


def _without_empty(parts: Mapping[int, Sequence[BlockToBuild]]) -> dict[int, Sequence[BlockToBuild]]:
    return {index: blocks for index, blocks in parts.items() if blocks}


def when_all(futures: Sequence[Future[Any]], then: Callable[[], None]) -> None:
    """Calls `then` once all are done, in the last one's thread, or at once where there are none."""
    left = len(futures)
    lock = threading.Lock()

    def on_done(_: Future[Any]) -> None:
        nonlocal left
        with lock:
            left -= 1
            is_last = left == 0
        if is_last:
            then()

    for future in futures:
        future.add_done_callback(on_done)
    if not futures:
        then()
