"""Where training and validation examples come from: different users, by a hash of their ids."""

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from rcjax.cache.placement import RequestLog
from rcjax.catalog import Catalogue, EmbeddedWorld, Request
from rcjax.catalog.holdout import DEFAULT_SHARES, split_users
from rcjax.catalog.negatives import NegativeSampler
from rcjax.catalog.taste import HISTORY_SHARPNESS
from rcjax.config import ClearHistories, Settings, TrainSettings, read_catalogue
from rcjax.training.examples import Buckets, DrawnBuckets, EmbeddedExamples, Example, ExampleSource, PairExamples
from rcjax.training.requests import RequestExamples, request_examples
from rcjax.training.trainer import BUCKETED_BATCHES

logger = logging.getLogger(__name__)

Tell = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class Sources:
    """The buckets of a run, and the examples that it is validated on, which are of other users.

    `num_requests`: so many different ones there are, where they are not drawn without end. `has_choices`: of some of
    them it is known what was chosen.
    """

    train: Buckets
    validation: list[Example]
    num_requests: int | None = None
    has_choices: bool = True


def sources_of(settings: Settings, train: TrainSettings, tell: Tell = logger.warning) -> Sources:
    """The requests of a file or catalogue for a teacher to score, or else examples that are drawn.

    `tell` gets a line for each thing that had to be left out.
    """
    catalogue: Catalogue | None = None
    file = train.teacher.requests if train.teacher else None
    if settings.catalogue.format != "embedded":
        catalogue = read_catalogue(settings.catalogue, tell=tell)
    elif file is not None:
        raise ValueError(
            f"train.teacher.requests={str(file)!r}: of the embedded shop only test users are known; leave it out"
        )
    requests = _requests(file, tell) if file else catalogue.requests if catalogue else ()
    if train.teacher is not None and catalogue is not None and (file or requests):
        return _made(requests, catalogue, settings, train, tell)
    source, validation = example_sources(settings, train, catalogue)
    examples = validation.draw(np.random.default_rng((train.seed, 1)), train.num_validation)
    return Sources(_drawn(source, train), examples)


def _drawn(source: ExampleSource, train: TrainSettings) -> Buckets:
    if train.clear_histories is None:
        return DrawnBuckets(source)
    if not isinstance(source, EmbeddedExamples):
        raise ValueError("train.clear_histories is for the embedded shop, whose tastes are known; leave it out")
    return FadingBuckets(source, train.clear_histories, BUCKETED_BATCHES / train.accumulate)


@dataclass(frozen=True, slots=True)
class FadingBuckets:
    """Examples of the embedded shop with histories that are clear at first (`ClearHistories`)."""

    source: EmbeddedExamples
    clear: ClearHistories
    steps_per_bucket: float

    def bucket(self, number: int, num_examples: int, rng: np.random.Generator) -> list[Example]:
        sharpness = self.clear.sharpness_at(number * self.steps_per_bucket, HISTORY_SHARPNESS)
        world = self.source.world.with_histories(sharpness)
        return replace(self.source, world=world).draw(rng, num_examples)


def _requests(file: Path, tell: Tell) -> list[Request]:
    log = RequestLog.load(file)
    if log.num_dropped:
        tell(f"{file}: the oldest {log.num_dropped:,} requests are left out, beyond the last {len(log):,}")
    return log.requests


def _made(
    requests: Sequence[Request], catalogue: Catalogue, settings: Settings, train: TrainSettings, tell: Tell
) -> Sources:
    """Requests that were really made; a user's are all trained on, or all validated on, or left for `rcjax eval`."""
    splits = split_users(catalogue, DEFAULT_SHARES, settings.catalogue.seed)
    train_examples, validation = (
        request_examples(
            [r for r in requests if r.user_id in splits[name].users or r.user_id not in catalogue.users],
            catalogue,
            max_candidates=train.num_candidates,
            max_events=train.max_events,
            requests_per_user=train.requests_per_user,
            seed=train.seed,
            tell=told,
        )
        for name, told in (("train", tell), ("validation", lambda line: None))
    )
    for examples, name in ((train_examples, "train"), (validation, "validation")):
        if not examples:
            raise ValueError(
                f"none of the {len(requests):,} requests is one of a {name} user, of known items; give more requests, "
                "or another catalogue.seed, which splits the users"
            )
    return Sources(
        RequestExamples(tuple(train_examples)),
        validation[: train.num_validation],
        len(train_examples),
        any(example.choices for example in train_examples),
    )


def example_sources(
    settings: Settings, train: TrainSettings, catalogue: Catalogue | None = None
) -> tuple[ExampleSource, ExampleSource]:
    """Draws training and validation examples, of different users, by a hash of their ids.

    `catalogue` is that of the settings, where it has been read already.
    """
    if settings.catalogue.format == "embedded":
        world = EmbeddedWorld(settings.catalogue.seed)
        own = EmbeddedExamples(
            world,
            "train",
            train.num_candidates,
            requests_per_user=train.requests_per_user,
            choices_per_request=train.choices_per_request,
            max_events=train.max_events,
            recall_share=train.recall_share,
            pool=train.negative_pool,
        )
        return own, EmbeddedExamples(world, "validation", train.num_candidates, max_events=train.max_events)
    catalogue = catalogue or read_catalogue(settings.catalogue)
    splits = split_users(catalogue, DEFAULT_SHARES, settings.catalogue.seed)
    sampler = NegativeSampler(splits["train"], train.negatives)
    pairs = [
        PairExamples(
            catalogue,
            list(splits[name].users.values()),
            sampler,
            num_candidates=train.num_candidates,
            max_events=train.max_events,
            requests_per_user=train.requests_per_user if name == "train" else 1,
            choices_per_request=train.choices_per_request if name == "train" else 1,
            recall_share=train.recall_share if name == "train" else 0.0,
            pool=train.negative_pool if name == "train" else None,
        )
        for name in ("train", "validation")
    ]
    return pairs[0], pairs[1]
