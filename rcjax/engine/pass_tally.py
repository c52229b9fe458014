"""What a slice's passes were: how many, how long, how full."""

from dataclasses import dataclass

from rcjax.engine.histogram import Histogram, HistogramCounts
from rcjax.engine.shape import Shape

SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)
ROWS = (1, 2, 4, 8, 16, 32, 64)
PADDING = (0.0, 0.1, 0.25, 0.5, 0.75, 0.9)  # shares of a pass's tokens


@dataclass(frozen=True, slots=True)
class PassCounts:
    """Of the passes of one purpose that are done: their seconds, the rows that were used, and the padding's share.

    Of the tokens that they computed `num_tokens` were wanted, and `num_padding` filled a shape up.
    """

    seconds: HistogramCounts
    rows: HistogramCounts
    padding: HistogramCounts
    num_tokens: int
    num_padding: int


class _OfPurpose:
    def __init__(self) -> None:
        self.seconds, self.rows, self.padding = Histogram(SECONDS), Histogram(ROWS), Histogram(PADDING)
        self.num_tokens = self.num_padding = 0

    def read(self) -> PassCounts:
        return PassCounts(self.seconds.read(), self.rows.read(), self.padding.read(), self.num_tokens, self.num_padding)


class PassTally:
    """Counts a slice's passes by purpose (`rank`, `build`, `probe`, `decode`); its thread adds, any thread reads."""

    def __init__(self) -> None:
        self._purposes: dict[str, _OfPurpose] = {}

    def add(self, purpose: str, shape: Shape, num_rows: int, num_tokens: int, seconds: float) -> None:
        """A pass of `shape` that is done, `num_rows` and `num_tokens` of which were no padding."""
        tally = self._purposes.get(purpose)
        if tally is None:
            tally = self._purposes[purpose] = _OfPurpose()
        capacity = shape.batch * shape.fresh_tokens
        tally.seconds.add(seconds)
        tally.rows.add(num_rows)
        tally.padding.add((capacity - num_tokens) / capacity)
        tally.num_tokens += num_tokens
        tally.num_padding += capacity - num_tokens

    def read(self) -> dict[str, PassCounts]:
        """By purpose, of those that there were passes of."""
        return {purpose: tally.read() for purpose, tally in self._purposes.copy().items()}
