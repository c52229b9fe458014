"""What a teacher scores requests with, computed once and kept on disk."""

import hashlib
import json
import logging
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from zipfile import BadZipFile

import numpy as np
from jaxtyping import Float, Int

from rcjax.disk import writing
from rcjax.training.examples import Example
from rcjax.training.identity import check_identity
from rcjax.training.teacher import Teacher

_IDENTITY = "teacher.json"

logger = logging.getLogger(__name__)

Scores = Float[np.ndarray, "K n C"]  # in K orders of the candidates; NaN beyond an example's own


class TeacherScores:
    """The teacher's scores of buckets of examples, a file a bucket in `folder`.

    `identity` says whose scores they are; ValueError where the folder holds another's. A run that was killed goes on
    with the first bucket that has no file. `teacher` is called for only where one is missing.
    """

    def __init__(
        self, folder: Path, identity: dict[str, object], teacher: Callable[[], Teacher], *, batch_size: int, seed: int
    ):
        self._folder = folder
        self._teacher = teacher
        self._batch_size = batch_size
        self._seed = seed
        text = json.dumps({**identity, "seed": seed}, indent=1)
        advice = f"the scores of another teacher, or of another seed ({_IDENTITY}); set train.teacher.scores"
        check_identity(folder / _IDENTITY, text, advice)

    def of(self, name: str, examples: Sequence[Example], num_orders: int) -> Scores:
        """Each example's scores in `num_orders` random orders of its candidates, from the file `name` or the teacher.

        ValueError where the file is of other examples; `DiskError`.
        """
        path = self._folder / f"{name}.npz"
        digest = _digest(examples, num_orders)
        if path.exists():
            try:
                with path.open("rb") as file, np.load(file) as kept:
                    kept_digest, scores = kept["digest"].item(), kept["scores"]
            except (OSError, ValueError, KeyError, EOFError, BadZipFile) as error:
                logger.warning("%s cannot be read (%s); its requests are scored anew", path, type(error).__name__)
            else:
                if kept_digest != digest:
                    raise ValueError(f"{path} has the scores of other requests; set train.teacher.scores, or remove it")
                return scores
        start_s = time.perf_counter()
        scores = self._computed(name, examples, num_orders)
        seconds = np.array(time.perf_counter() - start_s)
        new = path.with_name(f"{path.name}.new")
        with writing(path):
            with new.open("wb") as out:
                np.savez(out, digest=np.array(digest), scores=scores, seconds=seconds)
            new.replace(path)
        return scores

    def _computed(self, name: str, examples: Sequence[Example], num_orders: int) -> Scores:
        teacher = self._teacher()
        scores = np.full((num_orders, len(examples), max(len(e.candidates) for e in examples)), np.nan, np.float32)
        first: list[Int[np.ndarray, ...]] = []
        for k in range(num_orders):
            rng = np.random.default_rng(_number(f"{self._seed} {name} {k}"))
            orders = [_order(rng, len(e.candidates), first[i] if k else None) for i, e in enumerate(examples)]
            first = first or orders
            for batch in _batches(len(examples), self._batch_size):
                found = teacher.scores([examples[i] for i in batch], [orders[i] for i in batch])
                for i, row in zip(batch, found, strict=True):
                    if not np.isfinite(row).all():
                        raise FloatingPointError(f"the teacher's scores of {name} are not finite: {row}")
                    scores[k, i, : len(row)] = row
        return scores


def scoring_s(folder: Path) -> float:
    """The seconds that the scores in a folder took, compilation included."""
    seconds = 0.0
    for path in sorted(folder.glob("*.npz")):
        with path.open("rb") as file, np.load(file) as kept:
            seconds += float(kept["seconds"])
    return seconds


def _order(
    rng: np.random.Generator, num_candidates: int, other_than: Int[np.ndarray, "..."] | None
) -> Int[np.ndarray, "C"]:
    """A random order, and another one than that, where there is another."""
    order = rng.permutation(num_candidates)
    while other_than is not None and num_candidates > 1 and (order == other_than).all():
        order = rng.permutation(num_candidates)
    return order


def _batches(num_examples: int, size: int) -> Iterator[list[int]]:
    """Indices, `size` at a time; the last batch is filled up with the first, so that it needs no program of its own."""
    for at in range(0, num_examples, size):
        yield [i % num_examples for i in range(at, at + size)]


def _digest(examples: Sequence[Example], num_orders: int) -> str:
    """Of all that the teacher is shown."""
    shown = [(e.history, e.candidates) for e in examples]
    return hashlib.sha256(f"{num_orders} {shown!r}".encode()).hexdigest()


def _number(text: str) -> int:
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8])
