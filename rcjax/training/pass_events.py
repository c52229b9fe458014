"""What a training run measures, where TensorBoard reads it."""

from collections.abc import Mapping
from pathlib import Path

from rcjax.config import TrainSettings
from rcjax.evaluation.event_file import EventFile
from rcjax.training.curve import CurvePoint
from rcjax.training.step import learning_rate_schedule


class PassEvents:
    """Scalars by the number of the pass, in `folder`; without one, nothing is written.

    The file begins with the first pass that is run, so that a run that goes on from a checkpoint replaces what a killed
    one wrote of the passes after it, and one that has nothing left to do writes none. Close it at the end.
    """

    def __init__(self, folder: Path | None, settings: TrainSettings):
        self._folder = folder
        self._accumulate = settings.accumulate
        self._learning_rate = learning_rate_schedule(settings)
        self._file: EventFile | None = None

    def passed(self, number: int, loss: float) -> None:
        if self._folder is not None:
            rate = float(self._learning_rate((number - 1) // self._accumulate))
            self._add(self._folder, number, {"train/loss": loss, "train/learning_rate": rate})

    def validated(self, point: CurvePoint) -> None:
        if self._folder is not None:
            found = {
                "validation/ndcg_at_10": point.validation_ndcg_at_10,
                "validation/kl_nats": point.validation_kl_nats,
                "validation/top1_agreement": point.validation_top1_agreement,
                "train/seconds": point.train_s,
            }
            self._add(self._folder, point.step, {tag: value for tag, value in found.items() if value is not None})

    def close(self) -> None:
        if self._file is not None:
            self._file.close()

    def _add(self, folder: Path, step: int, scalars: Mapping[str, float]) -> None:
        if self._file is None:
            self._file = EventFile(folder, first_step=step)
        self._file.add(step, scalars)
