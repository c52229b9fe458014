"""What a demo found: what it prints, what its page shows, and what its benchmark holds against its claims."""

from collections.abc import Mapping
from dataclasses import dataclass

from rcjax.catalog import Catalogue, Request
from rcjax.commands.demo.quality import Quality
from rcjax.commands.report import Answer
from rcjax.config import Settings
from rcjax.request import EngineInfo
from rcjax.serving.explanation import Explanation

UNTAUGHT_SHARE = 0.25  # of the way from chance to the best possible: who gets no farther has not learnt to rank
UNTAUGHT = """\
Read the times, not the taste: {weights} has not been taught to rank these prompts ({share:.0%} of the way from chance \
to the best possible). `rcjax train` teaches it (docs/training.md)."""


@dataclass(frozen=True, slots=True, eq=False)
class Shown:
    """A request of the shop and what each arm answered."""

    request: Request
    answers: Mapping[str, Answer]


@dataclass(frozen=True, slots=True, eq=False)
class DemoReport:
    """The requests that were `shown`, the prompts of the first by arm, and the quality over many."""

    settings: Settings
    info: EngineInfo
    shop: Catalogue
    shown: tuple[Shown, ...]
    prompts: Mapping[str, Explanation]
    quality: Quality
    num_compilations: int
    seconds: float

    @property
    def answers(self) -> dict[str, list[Answer]]:
        """Of the settings' arms, for every request that was shown."""
        return {
            arm: [one.answers[arm] for one in self.shown] for arm in self.shown[0].answers if arm in self.settings.arms
        }

    @property
    def note(self) -> str | None:
        """A line where the model was not taught to rank: it is known to be none, or does no better."""
        is_base = self.settings.weights == Settings.model_fields["model"].default
        if not is_base and self.quality.share >= UNTAUGHT_SHARE:
            return None
        return UNTAUGHT.format(weights=self.settings.weights, share=self.quality.share)
