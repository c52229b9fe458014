"""Soft targets: a teacher's distribution over the candidates as what a student learns."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np

from rcjax.evaluation.fidelity import Fidelity, fidelity
from rcjax.training.examples import Buckets, Example, bucket_rng
from rcjax.training.teacher import shares_of
from rcjax.training.teacher_scores import Scores, TeacherScores


@dataclass(frozen=True, slots=True)
class SoftTargetBuckets:
    """The first buckets of `source` with the teacher's distributions, again and again.

    Candidates stand in another random order each time, so that no place in a prompt is learnt.
    """

    source: Buckets
    scores: Sequence[Scores]
    label_share: float
    seed: int

    def bucket(self, number: int, num_examples: int, rng: np.random.Generator) -> list[Example]:
        """ValueError where buckets of another size were scored."""
        epoch, place = divmod(number, len(self.scores))
        which = int(np.random.default_rng((self.seed, epoch)).permutation(len(self.scores))[place])
        if self.scores[which].shape[1] != num_examples:
            raise ValueError(f"buckets of {self.scores[which].shape[1]} examples were scored, not of {num_examples}")
        drawn = self.source.bucket(which, num_examples, bucket_rng(self.seed, which))
        examples = with_soft_targets(drawn, self.scores[which], self.label_share)
        return [example.in_order(rng.permutation(len(example.candidates)).tolist()) for example in examples]


def scored_buckets(
    scores: TeacherScores,
    source: Buckets,
    *,
    num_buckets: int,
    bucket_size: int,
    num_orders: int,
    label_share: float,
    seed: int,
    advance: Callable[[], None] = lambda: None,
) -> SoftTargetBuckets:
    """Lets the teacher score the first `num_buckets`; `advance` is called after each."""
    found = []
    for number in range(num_buckets):
        examples = source.bucket(number, bucket_size, bucket_rng(seed, number))
        found.append(scores.of(f"bucket-{number:05d}", examples, num_orders))
        advance()
    return SoftTargetBuckets(source, found, label_share, seed)


def with_soft_targets(examples: Sequence[Example], scores: Scores, label_share: float) -> list[Example]:
    """The examples with the teacher's distribution, of which what was chosen takes `label_share` where it is known."""
    found = []
    for example, of_one in zip(examples, _of_each(scores, examples), strict=True):
        shares = shares_of(of_one)
        if label_share and example.choices:
            shares = (1 - label_share) * shares + label_share * example.choice_shares
        found.append(replace(example, soft_targets=tuple(shares.tolist())))
    return found


def self_agreement(examples: Sequence[Example], scores: Scores) -> Fidelity:
    """The teacher in each further order of the candidates against itself in the first."""
    of_each = list(_of_each(scores, examples))
    return fidelity([(own[0], other) for own in of_each for other in own[1:]])


def _of_each(scores: Scores, examples: Sequence[Example]) -> Iterator[np.ndarray]:
    for n, example in enumerate(examples):
        yield scores[:, n, : len(example.candidates)]
