"""Requests that were really made, as examples: those of a file or of a catalogue."""

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
    seed: int,
    tell: Callable[[str], None],
) -> list[Example]:
    """An example for each request whose user and candidates the catalogue has, in random order.

    The history is what the catalogue has of the user, up to the event with what was chosen, the last `max_events`. Of
    more than `max_candidates` a random part is taken, with what was chosen. `tell` gets a line for what is left out.
    """
    rng = np.random.default_rng(seed)
    found: list[Example] = []
    num_requests = num_without_user = num_of_unknown = num_short = 0
    for request in requests:
        num_requests += 1
        known = [item_id for item_id in request.candidates if item_id in catalogue.items]
        num_of_unknown += len(known) < len(request.candidates)
        if request.user_id not in catalogue.users:
            num_without_user += 1
        elif len(known) < 2:
            num_short += 1
        else:
            found.append(
                _example(
                    Request(request.user_id, tuple(known), request.target), catalogue, max_candidates, rng, max_events
                )
            )
    for number, what in (
        (num_without_user, "are of users that the catalogue lacks, and are left out"),
        (num_short, "have fewer than two candidates that the catalogue has, and are left out"),
        (num_of_unknown, "name items that the catalogue lacks; these are left out"),
    ):
        if number:
            tell(f"{number:,} of {num_requests:,} requests {what}")
    return [found[i] for i in rng.permutation(len(found))]


def _example(
    request: Request, catalogue: Catalogue, max_candidates: int, rng: np.random.Generator, max_events: int
) -> Example:
    target = request.target if request.target in request.candidates else None
    candidates: Sequence[str] = request.candidates
    if len(candidates) > max_candidates:
        others = [item_id for item_id in candidates if item_id != target]
        num_others = max_candidates - (target is not None)
        taken = {others[i] for i in rng.permutation(len(others))[:num_others]}
        candidates = [item_id for item_id in candidates if item_id == target or item_id in taken]
    events = catalogue.users[request.user_id].events
    until = next((n for n, event in enumerate(events) if event.item_id == target), len(events))
    history = events[max(0, until - max_events) : until]
    return example_of(Request(request.user_id, tuple(candidates), target), history, catalogue.items)
