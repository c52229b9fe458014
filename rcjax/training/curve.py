"""The training curve: a file of a JSON object a line, whole after any kill."""

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path

from rcjax.disk import write_whole

CURVE = "curve.jsonl"


@dataclass(frozen=True, slots=True)
class CurvePoint:
    """A point of the training curve: after `step` passes, seconds of training, mean loss since the last point."""

    step: int
    train_s: float
    loss: float
    validation_ndcg_at_10: float


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
    try:
        values = json.loads(line)
    except (ValueError, RecursionError):
        values = None
    is_point = isinstance(values, dict) and values.keys() == names
    if not is_point or not all(type(value) in (int, float) for value in values.values()):
        raise ValueError(f"{place}: not a point of a training curve; remove the line, or train in another folder")
    return CurvePoint(**values)


def write_curve(path: Path, curve: Sequence[CurvePoint]) -> None:
    """Puts a whole new file in the old one's place, which a kill or a full disk leaves as it was; `DiskError`."""
    write_whole(path, "".join(json.dumps(asdict(point)) + "\n" for point in curve))
