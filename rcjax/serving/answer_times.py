"""How long requests took, by arm, stage and outcome, for whoever watches the server."""

from collections.abc import Mapping
from dataclasses import dataclass

from rcjax.engine.histogram import Histogram, HistogramCounts
from rcjax.request import RecommendResult, StageTimes
from rcjax.serving.status import code_of

SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)
STAGES = ("plan", "queue", "build", "probe", "extend", "readout")


@dataclass(frozen=True, slots=True)
class AnswerTimesRead:
    """Seconds to the first ranked item by arm, of each stage by arm and stage, and to whatever answer by gRPC code."""

    ttft: Mapping[str, HistogramCounts]
    stages: Mapping[tuple[str, str], HistogramCounts]
    answers: Mapping[str, HistogramCounts]


class _OfArm:
    def __init__(self) -> None:
        self.ttft, self.plan, self.queue, self.build = (Histogram(SECONDS) for _ in range(4))
        self.probe, self.extend, self.readout = (Histogram(SECONDS) for _ in range(3))

    def add(self, times: StageTimes) -> None:
        self.ttft.add(times.ttft_ms * 1e-3)
        self.plan.add(times.plan_ms * 1e-3)
        self.queue.add(times.queue_ms * 1e-3)
        self.build.add(times.build_ms * 1e-3)
        self.probe.add(times.probe_ms * 1e-3)
        self.extend.add(times.extend_ms * 1e-3)
        self.readout.add(times.readout_ms * 1e-3)


class AnswerTimes:
    """Histograms of what was answered. Its user locks: one thread at a time adds or reads."""

    def __init__(self) -> None:
        self._arms: dict[str, _OfArm] = {}  # those that the settings name, as others have no result
        self._answers: dict[str, Histogram] = {}

    def add(self, outcome: object, seconds: float) -> None:
        """An answer, whatever it is, `seconds` after its request came."""
        code = code_of(outcome).name if isinstance(outcome, BaseException) else "OK"
        answers = self._answers.get(code)
        if answers is None:
            answers = self._answers[code] = Histogram(SECONDS)
        answers.add(seconds)
        if isinstance(outcome, RecommendResult):
            arm = self._arms.get(outcome.arm)
            if arm is None:
                arm = self._arms[outcome.arm] = _OfArm()
            arm.add(outcome.times)

    def read(self) -> AnswerTimesRead:
        return AnswerTimesRead(
            ttft={name: arm.ttft.read() for name, arm in self._arms.items()},
            stages={(name, stage): getattr(arm, stage).read() for name, arm in self._arms.items() for stage in STAGES},
            answers={code: answers.read() for code, answers in self._answers.items()},
        )
