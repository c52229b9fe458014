"""Settings of what one request may ask for."""

from pydantic import Field

from rcjax.config.strict import StrictModel


class Limits(StrictModel):
    """What one request may ask for; the shapes must be able to hold it."""

    max_candidates: int = Field(100, ge=1)
    max_item_tokens: int = Field(192, ge=1)
    max_history_tokens: int = Field(512, ge=32)
