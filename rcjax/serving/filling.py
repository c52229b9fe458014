"""Fills an engine with a catalogue, showing progress; what is over the limits is left out."""

import logging
from collections.abc import Sequence
from dataclasses import dataclass, field

from rich.console import Console

from rcjax.catalog import Catalogue, Item, User
from rcjax.errors import InvalidRequestError, RcjaxError
from rcjax.request import PutItems, WriteResult
from rcjax.serving.local import LocalEngine
from rcjax.serving.progress import Meter, meters

logger = logging.getLogger(__name__)

ITEMS_PER_WRITE = 32


@dataclass(frozen=True, slots=True)
class FillReport:
    """What went into an engine; `num_built` blocks were computed, the others were in its cache already."""

    num_items: int
    num_users: int
    num_tokens: int
    num_built: int


def fill(engine: LocalEngine, catalogue: Catalogue, console: Console) -> FillReport:
    """Puts the items and users that the engine lacks, and items whose content differs there.

    ValueError where there are no items, or none that is within the limits.
    """
    if not catalogue.items:
        raise ValueError("the catalogue has no items")
    known_items, known_users = engine.known()
    new_items = [item for item in catalogue.items.values() if known_items.get(item.item_id) != item]
    new_users = [user for user in catalogue.users.values() if user.user_id not in known_users]
    with meters(console) as bars:
        items = _Filled(Meter(bars, "items", len(new_items)))
        _fill_items(engine, new_items, items)
        users = _Filled(Meter(bars, "users", len(new_users)))
        _fill_users(engine, new_users, users)
    refused = items.refused + users.refused
    if refused:
        note = f"{len(refused)} items or users left out; first: {refused[0]}"
        if console.quiet:  # who wants no progress is told all the same
            logger.warning(note)
        console.print(note, style="yellow", markup=False)
    num_items = len(catalogue.items) - len(new_items) + items.meter.num_put
    if not num_items:
        raise ValueError(f"no item fits the limits: {refused[0]}")
    num_chosen = engine.choose_orders()  # 0 where no arm has the offline policy
    if num_chosen:
        console.print(f"positions to correct offline chosen for {num_chosen:,} items")
    return FillReport(
        num_items=num_items,
        num_users=len(catalogue.users) - len(new_users) + users.meter.num_put,
        num_tokens=items.meter.num_tokens + users.meter.num_tokens,
        num_built=items.num_built + users.num_built,
    )


@dataclass(slots=True, eq=False)
class _Filled:
    """What went in so far of one kind, and what was refused."""

    meter: Meter
    num_built: int = 0
    refused: list[InvalidRequestError] = field(default_factory=list)

    def note(self, outcome: WriteResult | RcjaxError, number: int) -> None:
        """Takes what became of a write of so many; raises an error that is not the fault of what was written."""
        if isinstance(outcome, WriteResult):
            self.num_built += outcome.num_built
            self.meter.put(number, outcome.num_tokens)
        elif isinstance(outcome, InvalidRequestError):
            self.refused.append(outcome)
            self.meter.skip()
        else:
            raise outcome


def _fill_items(engine: LocalEngine, items: Sequence[Item], filled: _Filled) -> None:
    """Some items a write; those of a write that was refused again, each on its own."""
    groups = [items[at : at + ITEMS_PER_WRITE] for at in range(0, len(items), ITEMS_PER_WRITE)]
    outcomes = engine.apply_each(PutItems(tuple(group)) for group in groups)
    for group, outcome in zip(groups, outcomes, strict=True):
        if not isinstance(outcome, InvalidRequestError):
            filled.note(outcome, len(group))
            continue
        for alone in engine.apply_each(PutItems((item,)) for item in group):
            filled.note(alone, 1)


def _fill_users(engine: LocalEngine, users: Sequence[User], filled: _Filled) -> None:
    for outcome in engine.apply_each(map(engine.user_write, users)):
        filled.note(outcome, 1)
