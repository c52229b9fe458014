"""What a server's RPCs came to: how many, how they ended, how long they took."""

from collections import Counter
from collections.abc import Iterator

from prometheus_client.core import Metric as Family

from rcjax.engine.histogram import Histogram
from rcjax.serving.answer_times import SECONDS
from rcjax.serving.telemetry import catalogue

UNKNOWN = "unknown"  # for methods that the server does not have, whatever their callers call them


class RpcCounts:
    """Counters by method; the event loop's thread counts, any thread collects."""

    def __init__(self) -> None:
        self._ended: Counter[tuple[str, str]] = Counter()
        self._seconds: dict[str, Histogram] = {}
        self._num_under_way: dict[str, int] = {}

    def begin(self, method: str) -> None:
        self._num_under_way[method] = self._num_under_way.get(method, 0) + 1

    def end(self, method: str, code: str, seconds: float) -> None:
        self._num_under_way[method] -= 1
        self._ended[method, code] += 1
        found = self._seconds.get(method)
        if found is None:
            found = self._seconds[method] = Histogram(SECONDS)
        found.add(seconds)

    def refuse_unknown(self) -> None:
        self._ended[UNKNOWN, "UNIMPLEMENTED"] += 1

    def collect(self) -> Iterator[Family]:
        # Copies, as the event loop may come to a method that it has not seen.
        yield catalogue.RPCS.numbers(dict(self._ended).items())
        yield catalogue.RPC_SECONDS.histograms(
            ((method,), found.read()) for method, found in self._seconds.copy().items()
        )
        yield catalogue.RPCS_UNDER_WAY.numbers(
            ((method,), number) for method, number in self._num_under_way.copy().items()
        )
