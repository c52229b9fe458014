"""Settings of distillation: who teaches, and on which requests."""

from pathlib import Path

from pydantic import Field

from rcjax.config.paths import in_folder
from rcjax.config.strict import StrictModel
from rcjax.prompt import Scoring
from rcjax.prompt.template import is_template_file


class TeacherSettings(StrictModel):
    """The teacher is the checkpoint that training starts from, under full causal attention, with its own prompt.

    `template` (None: the settings') and `scoring` are those that it was trained for. Every request is scored in
    `num_orders` random orders of its candidates, whose distributions are averaged; the student is shown another order
    each time. `requests` is a file of requests: a server's request log, or `requests.jsonl`; None: the catalogue's,
    or, where it has none, requests that are drawn from its events. `num_requests` of them are scored, rounded up to
    whole groups of four batches (None: all, but no more than the run's passes show). A `label_share` of the target is
    what was chosen, where that is known. Scores are kept in the folder `scores` (None: in the run's), also for other
    runs of the same teacher, seed and batch size.
    """

    template: str | None = None
    scoring: Scoring = Scoring.LABEL
    num_orders: int = Field(1, ge=1)
    requests: Path | None = None
    num_requests: int | None = Field(None, ge=1)
    label_share: float = Field(0.0, ge=0, le=1)
    scores: Path | None = None

    def in_folder(self, folder: Path) -> "TeacherSettings":
        """The same with absolute paths: relative ones start in `folder`, and `~` is a home directory."""
        changed: dict[str, object] = {}
        if self.template is not None and is_template_file(self.template):
            changed["template"] = str(in_folder(folder, Path(self.template), "train.teacher.template"))
        for name in ("requests", "scores"):
            path = getattr(self, name)
            if path is not None:
                changed[name] = in_folder(folder, path, f"train.teacher.{name}")
        return self.model_copy(update=changed)
