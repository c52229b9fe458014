"""Requests that were really made, as examples: those of a file or of a catalogue."""

from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from rcjax.catalog.types import Catalogue, Request
from rcjax.training.examples import Example, example_of


@dataclass(frozen=True, slots=True)
class RequestExamples:
    """A list of examples, taken bucket by bucket and from the start again after the last one."""

    examples: tuple[Example, ...]

    def bucket(self, number: int, num_examples: int, rng: np.random.Generator) -> list[Example]:
        first = number * num_examples
        return [self.examples[(first + n) % len(self.examples)] for n in range(num_examples)]


def request_examples(
    requests: Iterable[Request],
    catalogue: Catalogue,
    *,
    max_candidates: int,
    max_events: int,
    requests_per_user: int = 1,
    seed: int,
    tell: Callable[[str], None],
) -> list[Example]:
    """An example for each request whose user and candidates the catalogue has, in random order.

    The history is what the catalogue has of the user, up to the last event with what was chosen, the last
    `max_events`. Of more than `max_candidates` a random part is taken, with what was chosen. Up to `requests_per_user`
    of a user's stay together, so that a pass can share their history. `tell` gets a line for each thing that is left
    out.
    """
    rng = np.random.default_rng(seed)
    found: dict[str, list[Example]] = defaultdict(list)
    counts: Counter[str] = Counter()
    num_requests = 0
    for request in requests:
        num_requests += 1
        known = tuple(item_id for item_id in request.candidates if item_id in catalogue.items)
        counts["name items that the catalogue lacks; these are left out"] += len(known) < len(request.candidates)
        if request.user_id not in catalogue.users:
            counts["are of users that the catalogue lacks, and are left out"] += 1
        elif len(known) < 2:
            counts["have fewer than two candidates that the catalogue has, and are left out"] += 1
        else:
            much = f"have more than train.num_candidates={max_candidates}; a random part of these is taken"
            counts[much] += len(known) > max_candidates
            of_known = Request(request.user_id, known, request.target)
            found[request.user_id].append(_example(of_known, catalogue, rng, max_candidates, max_events))
    for what, number in counts.items():
        if number:
            tell(f"{number:,} of {num_requests:,} requests {what}")
    together = [
        of_user[start : start + requests_per_user]
        for of_user in found.values()
        for start in range(0, len(of_user), requests_per_user)
    ]
    return [example for i in rng.permutation(len(together)) for example in together[i]]


def _example(
    request: Request, catalogue: Catalogue, rng: np.random.Generator, max_candidates: int, max_events: int
) -> Example:
    target = request.target if request.target in request.candidates else None
    candidates: Sequence[str] = request.candidates
    if len(candidates) > max_candidates:
        others = [item_id for item_id in candidates if item_id != target]
        num_others = max_candidates - (target is not None)
        taken = {others[i] for i in rng.permutation(len(others))[:num_others]}
        candidates = [item_id for item_id in candidates if item_id == target or item_id in taken]
    events = catalogue.users[request.user_id].events
    until = max((n for n, event in enumerate(events) if event.item_id == target), default=len(events))
    history = events[max(0, until - max_events) : until]
    return example_of(Request(request.user_id, tuple(candidates), target), history, catalogue.items)
