"""What an evaluation asks: requests whose answers are known, and the catalogue that they are made from."""

import logging
from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np

from rcjax.catalog import Catalogue, EmbeddedWorld, Item
from rcjax.catalog.holdout import DEFAULT_SHARES, NextItem, hold_out, split_users
from rcjax.catalog.negatives import NegativeSampler
from rcjax.config import Settings, read_catalogue

logger = logging.getLogger(__name__)
DEFAULT_NUM_REQUESTS = 100
EVERYBODY = "all"
NUM_OTHER_USERS = 200  # of the embedded shop, whose events make popularity


@dataclass(frozen=True, slots=True)
class Dataset:
    """`asked` has the requests, each with a target, and users as a prompt may show them; `source` all users and events.

    `origin` says in a line where the requests come from. `world` is the shop that they were made by, if one was.
    """

    asked: Catalogue
    source: Catalogue
    origin: str
    world: EmbeddedWorld | None = None


def eval_dataset(
    settings: Settings,
    task: NextItem,
    *,
    num_requests: int | None = None,
    split: str = "test",
    seed: int = 0,
    is_servable: Callable[[Item], bool] = lambda item: True,
    tell: Callable[[str], None] = logger.warning,
) -> Dataset:
    """Requests of the settings' catalogue: the embedded shop's, those of its files, or else held-out events.

    `num_requests=None` takes `DEFAULT_NUM_REQUESTS`, or as many as there are; ValueError where an explicit number
    exceeds them. `split` names the users whose events are held out, or `EVERYBODY`; users are split as
    `rcjax.catalog.holdout.split_users` does with its default shares and the catalogue's seed. Items that are not
    servable are held out for nobody: no server would have them as candidates. `tell` gets a line for each thing that
    had to be left out.
    """
    if settings.catalogue.format == "embedded":
        return _embedded(settings, task, num_requests or DEFAULT_NUM_REQUESTS)
    catalogue = read_catalogue(settings.catalogue, tell=tell)
    if catalogue.requests:
        return _given(catalogue, num_requests, seed)
    servable = {item_id: item for item_id, item in catalogue.items.items() if is_servable(item)}
    dataset = _held_out(replace(catalogue, items=servable), settings.catalogue.seed, task, num_requests, split, seed)
    if len(servable) == len(catalogue.items):
        return dataset
    which = f"from the {len(servable):,} of {len(catalogue.items):,} items within the limits"
    return replace(dataset, origin=f"{dataset.origin}, {which}")


def _embedded(settings: Settings, task: NextItem, num_requests: int) -> Dataset:
    world = EmbeddedWorld(settings.catalogue.seed)
    catalogue = world.catalogue(
        num_users=num_requests, num_requests=num_requests, num_candidates=task.num_candidates, split="test"
    )
    others = world.catalogue(num_users=NUM_OTHER_USERS, num_requests=0, split="train")
    source = replace(catalogue, users=catalogue.users | others.users)
    origin = f"the embedded shop (seed {world.seed}), {task.num_candidates} candidates, test users"
    return Dataset(catalogue, source, origin, world)


def _given(catalogue: Catalogue, num_requests: int | None, seed: int) -> Dataset:
    usable = [request for request in catalogue.requests if request.target is not None]
    if not usable:
        raise ValueError(f"none of the catalogue's {len(catalogue.requests)} requests has a `target` to find")
    num = _number(num_requests, len(usable), "requests with a target")
    chosen = np.sort(np.random.default_rng(seed).permutation(len(usable))[:num])
    requests = tuple(usable[i] for i in chosen)
    origin = f"{num} of the catalogue's {len(catalogue.requests)} requests ({len(usable)} have a target)"
    return Dataset(replace(catalogue, requests=requests), catalogue, origin)


def _held_out(
    catalogue: Catalogue, split_seed: int, task: NextItem, num_requests: int | None, split: str, seed: int
) -> Dataset:
    users = catalogue
    if split != EVERYBODY:
        if split not in DEFAULT_SHARES:
            raise ValueError(f"{split=} is none of {', '.join((*DEFAULT_SHARES, EVERYBODY))}")
        users = split_users(catalogue, DEFAULT_SHARES, split_seed)[split]
    num_able = sum(len(task.targets(catalogue, user)) for user in users.users.values())
    whose = f"{split} users of {len(catalogue.users)}" if split != EVERYBODY else "all users"
    if not num_able:
        raise ValueError(f"no event can be held out: of {whose}, none has a target after {task.history_len=}")
    num = _number(num_requests, num_able, f"targets ({whose})")
    sampler = NegativeSampler(catalogue, task.negatives)
    asked = hold_out(users, task, num_requests=num, seed=seed, sampler=sampler)
    origin = (
        f"next item after {task.history_len} events, {task.num_candidates} candidates (negatives by "
        f"{task.negatives}), {num} of {num_able} targets, at most {task.targets_per_user} a user ({whose})"
    )
    return Dataset(asked, catalogue, origin)


def _number(wanted: int | None, available: int, of_what: str) -> int:
    if wanted is None:
        return min(DEFAULT_NUM_REQUESTS, available)
    if wanted > available:
        raise ValueError(f"{wanted} requests were asked for; there are {available} {of_what}")
    return wanted
