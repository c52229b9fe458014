"""Lessons: what the teacher says of requests, computed once and kept on disk."""

import hashlib
import json
import logging
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from zipfile import BadZipFile

import numpy as np
from jaxtyping import Float

from rcjax.disk import make_folder, write_whole, writing
from rcjax.training.examples import Example
from rcjax.training.teacher import Teacher

_IDENTITY = "teacher.json"

logger = logging.getLogger(__name__)

Scores = Float[np.ndarray, "K n C"]  # in K orders of the candidates; NaN beyond an example's own


class Lessons:
    """The teacher's scores of buckets of examples, a file a bucket in `folder`.

    `identity` says whose scores they are; ValueError where the folder holds another's. Whoever is killed goes on with
    the first bucket that has no file. `teacher` is called for only where a bucket is missing.
    """

    def __init__(
        self, folder: Path, identity: dict[str, object], teacher: Callable[[], Teacher], *, batch_size: int, seed: int
    ):
        self._folder = folder
        self._teacher = teacher
        self._batch_size = batch_size
        self._seed = seed
        make_folder(folder)
        text = json.dumps({**identity, "seed": seed}, indent=1)
        path = folder / _IDENTITY
        if not path.exists():
            write_whole(path, text)
        elif path.read_text(encoding="utf-8") != text:
            raise ValueError(f"{folder} holds the scores of another teacher ({_IDENTITY}); set train.teacher.scores")

    def scores(self, name: str, examples: Sequence[Example], num_orders: int) -> Scores:
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
        scores = self._computed(name, examples, num_orders)
        new = path.with_name(f"{path.name}.new")
        with writing(path):
            with new.open("wb") as out:
                np.savez(out, digest=np.array(digest), scores=scores)
            new.replace(path)
        return scores

    def _computed(self, name: str, examples: Sequence[Example], num_orders: int) -> Scores:
        teacher = self._teacher()
        scores = np.full((num_orders, len(examples), max(len(e.candidates) for e in examples)), np.nan, np.float32)
        for k in range(num_orders):
            rng = np.random.default_rng(_number(f"{self._seed} {name} {k}"))
            orders = [rng.permutation(len(example.candidates)) for example in examples]
            for batch in _batches(len(examples), self._batch_size):
                found = teacher.scores([examples[i] for i in batch], [orders[i] for i in batch])
                for i, row in zip(batch, found, strict=True):
                    if not np.isfinite(row).all():
                        raise FloatingPointError(f"the teacher's scores of {name} are not finite: {row}")
                    scores[k, i, : len(row)] = row
        return scores


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
