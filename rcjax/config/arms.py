"""Settings of the arms: the ways to serve the same request."""

from pydantic import field_validator, model_validator

from rcjax.config.strict import StrictModel
from rcjax.model.selection import parse_policy
from rcjax.prompt import BlockKind, History, Layout, Reuse, Scoring


class ArmSettings(StrictModel):
    """How an arm lays out, scores, reuses and corrects; see `rcjax.engine.arm`."""

    layout: Layout = Layout.SEQUENTIAL
    """`sequential`: one block after the other; `parallel`: items do not see each other."""
    scoring: Scoring = Scoring.LABEL
    """`label`: one answer token names the winner; `anchor`: a token after each item scores it."""
    reuse: Reuse = Reuse.BLOCKS
    """What is taken from the cache: nothing, the instruction, the `prefix` (history too), or `blocks` (items too)."""
    selection: str = "none"
    """Which tokens of reused blocks are computed again, such as `boundary(first=4)`."""
    history: History = History.EXACT
    """Of a user whose history is not in cache: `exact` computes it, `semantic` borrows KV from other histories."""

    @field_validator("selection")
    @classmethod
    def _known(cls, text: str) -> str:
        parse_policy(text)
        return text

    @model_validator(mode="after")
    def _reuses_history(self) -> "ArmSettings":
        if self.history is History.SEMANTIC and BlockKind.HISTORY not in self.reuse.kinds:
            raise ValueError(
                f"history={self.history.value!r} needs a reuse that takes the history from the cache (prefix, blocks), "
                f"not reuse={self.reuse.value!r}"
            )
        return self


EMBEDDED_ARMS = {
    "rcjax": ArmSettings(selection="boundary(first=4)"),
    "parallel": ArmSettings(layout=Layout.PARALLEL, scoring=Scoring.ANCHOR),
    "prefix": ArmSettings(reuse=Reuse.PREFIX),
    "full": ArmSettings(reuse=Reuse.NONE),
}
