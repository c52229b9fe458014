"""The training curve: a file of a JSON object a line, whole after any kill."""

import json
from collections.abc import Sequence
from dataclasses import MISSING, asdict, dataclass, fields
from pathlib import Path

from rcjax.disk import write_whole

CURVE = "curve.jsonl"


@dataclass(frozen=True, slots=True)
class CurvePoint:
    """A point of the training curve: after `step` passes, seconds of training, mean loss since the last point.

    On the validation requests: NDCG@10 where it is known what was chosen; where there is a teacher, KL(teacher ||
    student) over the candidates, and the share of requests with the same best candidate.
    """

    step: int
    train_s: float
    loss: float
    validation_ndcg_at_10: float | None = None
    validation_kl_nats: float | None = None
    validation_top1_agreement: float | None = None


def curve_until(path: Path, step: int) -> list[CurvePoint]:
    """The points that a resumed run keeps; those after its checkpoint will be made again.

    ValueError naming the line where the file is damaged.
    """
    if not path.exists():
        return []
    lines = path.read_bytes().splitlines()
    points = [_point(line, f"{path}, line {number}") for number, line in enumerate(lines, start=1)]
    return [point for point in points if point.step <= step]


def _point(line: bytes, place: str) -> CurvePoint:
    names = {field.name for field in fields(CurvePoint)}
    needed = {field.name for field in fields(CurvePoint) if field.default is MISSING}
    try:
        values = json.loads(line)
    except (ValueError, RecursionError):
        values = None
    is_point = isinstance(values, dict) and needed <= values.keys() <= names
    if not is_point or not all(type(value) in (int, float) for value in values.values()):
        raise ValueError(f"{place}: not a point of a training curve; remove the line, or train in another folder")
    return CurvePoint(**values)


def write_curve(path: Path, curve: Sequence[CurvePoint]) -> None:
    """Puts a whole new file in the old one's place, which a kill or a full disk leaves as it was; `DiskError`."""
    write_whole(path, "".join(json.dumps(_known(point)) + "\n" for point in curve))


def _known(point: CurvePoint) -> dict[str, float]:
    return {name: value for name, value in asdict(point).items() if value is not None}
