"""An arm: one way to serve the same request."""

from dataclasses import dataclass

from rcjax.model.selection import SelectionPolicy
from rcjax.prompt import History, Layout, Reuse, Scoring


@dataclass(frozen=True, slots=True)
class Arm:
    """How prompts are laid out, scored, taken from the cache and corrected."""

    layout: Layout
    scoring: Scoring
    reuse: Reuse
    selection: SelectionPolicy
    history: History = History.EXACT
