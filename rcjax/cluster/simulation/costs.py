"""What passes take in seconds, as a function of their sizes that was fitted to passes that were timed."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import Float64
from scipy.optimize import nnls

from rcjax.engine.cost import CostModel, Program
from rcjax.errors import NotFoundError

FORMAT = "rcjax.costs.1"
_BUILT_TOKEN_SEES = 256  # about an instruction and half an item


@dataclass(frozen=True, slots=True)
class PassSize:
    """What a pass computes, all rows together.

    `read_tokens` are the cached tokens of its rows, `pairs` counts each fresh token with each token that it sees.
    """

    fresh_tokens: float
    read_tokens: float
    pairs: float

    def __add__(self, other: "PassSize") -> "PassSize":
        return PassSize(
            self.fresh_tokens + other.fresh_tokens, self.read_tokens + other.read_tokens, self.pairs + other.pairs
        )


@dataclass(frozen=True, slots=True)
class TimedPass:
    size: PassSize
    seconds: float


@dataclass(frozen=True, slots=True)
class CostTable:
    """Seconds of a pass: so many to begin, and so many for each fresh token, token read, and pair.

    `source` says where the figures come from. `errors` are relative, one for each pass that was timed, each against a
    fit to the others; none where nothing was timed: then the table is a model and no measurement. `token_bytes` are
    those of a token's KV.
    """

    source: str
    token_bytes: float
    begin_s: float
    token_s: float
    read_s: float
    pair_s: float
    errors: tuple[float, ...] = ()

    def pass_s(self, size: PassSize) -> float:
        work_s = self.token_s * size.fresh_tokens + self.read_s * size.read_tokens + self.pair_s * size.pairs
        return self.begin_s + work_s

    def build_s(self, num_tokens: int) -> float:
        """Seconds that blocks of so many tokens add to a pass that computes them, without its beginning."""
        return num_tokens * (self.token_s + _BUILT_TOKEN_SEES * self.pair_s)

    @property
    def max_error(self) -> float:
        """The largest relative error; 0 where nothing was timed."""
        return max(map(abs, self.errors), default=0.0)

    @property
    def mean_error(self) -> float:
        """The mean relative error, without signs; 0 where nothing was timed."""
        return sum(map(abs, self.errors)) / len(self.errors) if self.errors else 0.0

    @classmethod
    def fitted(cls, source: str, token_bytes: float, passes: Sequence[TimedPass]) -> "CostTable":
        """The table of the least relative errors, no figure of it negative; ValueError without any pass."""
        if not passes:
            raise ValueError(f"{source}: no pass was timed, so there is nothing to fit costs to")
        figures = _fit(passes)
        errors = []
        for number, one in enumerate(passes):
            others = [*passes[:number], *passes[number + 1 :]]
            expected_s = float(_row(one) @ (_fit(others) if others else figures))
            errors.append(expected_s / one.seconds - 1)
        begin_s, token_s, read_s, pair_s = figures.tolist()
        return cls(source, token_bytes, begin_s, token_s, read_s, pair_s, tuple(errors))

    @classmethod
    def of_model(cls, source: str, model: CostModel, token_bytes: float, page_tokens: int) -> "CostTable":
        """From the passes that an engine's cost model timed, at the padded sizes that they ran at."""
        timed = [TimedPass(_padded(program, page_tokens), seconds) for program, seconds in model.timed().items()]
        return cls.fitted(source, token_bytes, timed)

    @classmethod
    def load(cls, path: Path) -> "CostTable":
        """From JSON: `format`, `source`, `token_bytes`, and `passes`, each with the fields of a size and `seconds`.

        ValueError names the file and what is wrong with it; `NotFoundError` where it is missing.
        """
        try:
            fields = json.loads(path.read_text(encoding="utf-8"))
            if fields["format"] != FORMAT:
                raise ValueError(f"format {fields['format']!r} is not {FORMAT!r}")
            passes = [
                TimedPass(
                    PassSize(float(one["fresh_tokens"]), float(one["read_tokens"]), float(one["pairs"])),
                    float(one["seconds"]),
                )
                for one in fields["passes"]
            ]
            if not all(one.seconds > 0 for one in passes):
                raise ValueError("a pass took no time; seconds must be above 0")
            return cls.fitted(fields["source"], float(fields["token_bytes"]), passes)
        except FileNotFoundError as error:
            raise NotFoundError(f"{path}: no such file of costs") from error
        except (ValueError, KeyError, TypeError) as error:
            missing = f"field {error} is missing" if isinstance(error, KeyError) else str(error)
            raise ValueError(f"{path}: no costs: {missing}") from error


def _padded(program: Program, page_tokens: int) -> PassSize:
    shape = program.shape
    shared, own = float(shape.num_pages * page_tokens), float(shape.tile_pages * page_tokens)
    fresh_tokens = float(shape.batch * shape.fresh_tokens)
    return PassSize(
        fresh_tokens=fresh_tokens,
        read_tokens=shape.batch * (shared + shape.tiles * own),
        pairs=fresh_tokens * (shared + own + shape.fresh_tokens / 2),
    )


def _row(one: TimedPass) -> Float64[np.ndarray, "4"]:
    return np.array([1.0, one.size.fresh_tokens, one.size.read_tokens, one.size.pairs])


def _fit(passes: Sequence[TimedPass]) -> Float64[np.ndarray, "4"]:
    """Least squares of errors relative to what was timed, of figures that are not negative."""
    rows = np.array([_row(one) / one.seconds for one in passes])
    scales = np.maximum(np.abs(rows).max(axis=0), np.finfo(np.float64).tiny)  # columns of like size, for nnls
    solution, _ = nnls(rows / scales, np.ones(len(passes)))
    return np.asarray(solution / scales, np.float64)


# Qwen3-8B in bfloat16 on an A100 of 80 GB: weights read once a pass at 1.6 TB/s, products at half of 312 TFLOP/s,
# attention at a third, 147,456 bytes of KV a token. A model of the hardware: nothing of it was timed.
MODELLED_8B = CostTable(
    source="Qwen3-8B on an A100, modelled from FLOPs and bytes, not measured",
    token_bytes=147_456.0,
    begin_s=0.0102,
    token_s=1.05e-4,
    read_s=9.2e-8,
    pair_s=5.7e-9,
)
