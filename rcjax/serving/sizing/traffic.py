"""What a deployment is sized for: how long texts are, and how many of them there are."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Traffic:
    """Mean tokens of an item and of a history, and how many items and users there are; None: as many as fit.

    The defaults are the means of the embedded shop, whose tokenizer is SmolLM2's.
    """

    item_tokens: float = 70.5
    history_tokens: float = 300.9
    num_items: int | None = None
    num_users: int | None = None
