"""A metric: its name, its labels, and how its values become what Prometheus reads."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily
from prometheus_client.core import Metric as Family
from prometheus_client.utils import floatToGoString

from rcjax.engine.histogram import HistogramCounts

Labels = tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Metric:
    """`name` as it is exported, in base units, a counter's with `_total`; `labels` have few values, whoever calls."""

    name: str
    kind: Literal["counter", "gauge", "histogram"]
    help: str
    labels: Labels = ()

    def numbers(self, values: Iterable[tuple[Labels, float]]) -> Family:
        """A counter or gauge with these values, by the values of its labels."""
        make = CounterMetricFamily if self.kind == "counter" else GaugeMetricFamily
        family = make(self.name, self.help, labels=self.labels)
        for labels, value in values:
            family.add_metric(labels, value)
        return family

    def histograms(self, values: Iterable[tuple[Labels, HistogramCounts]]) -> Family:
        family = HistogramMetricFamily(self.name, self.help, labels=self.labels)
        for labels, read in values:
            buckets, num_values = [], 0
            for bound, count in zip((*read.bounds, float("inf")), read.counts, strict=True):
                num_values += count
                buckets.append((floatToGoString(bound), float(num_values)))
            family.add_metric(labels, buckets, read.total)
        return family
