"""Settings of what one request and one connection may ask for."""

from pydantic import ByteSize, Field, model_validator

from rcjax.config.strict import StrictModel
from rcjax.request import ServiceLimits

_DEFAULT = ServiceLimits()


class Keepalive(StrictModel):
    """How a connection is found to be dead, and how long one may last.

    The server pings a client that is silent for `ping_s`, and closes the connection where no answer comes within
    `timeout_s`. Clients may ping every `min_ping_s`. A connection without calls ends after `max_idle_s`, any after
    `max_age_s`, so that clients spread over servers that are new; calls that are under way then get `age_grace_s`.
    None: it lasts.
    """

    ping_s: float = Field(60.0, gt=0)
    timeout_s: float = Field(20.0, gt=0)
    min_ping_s: float = Field(_DEFAULT.min_ping_s, gt=0)
    max_idle_s: float | None = Field(None, gt=0)
    max_age_s: float | None = Field(None, gt=0)
    age_grace_s: float = Field(60.0, gt=0)


class Limits(StrictModel):
    """What one request may ask for, which the shapes must be able to hold, and one connection; `Info` publishes them.

    The fields that `rcjax.request.ServiceLimits` has too mean what it says there; `max_top_k` is by default
    `max_candidates`.
    """

    max_candidates: int = Field(100, ge=1)
    max_item_tokens: int = Field(192, ge=1)
    """Of an item's text; a longer one is refused."""
    max_history_tokens: int = Field(512, ge=32)
    """Of a history; of a longer one the newest events stay."""
    max_id_len: int = Field(_DEFAULT.max_id_len, ge=1)
    """Characters of an id."""
    max_text_len: int = Field(_DEFAULT.max_text_len, ge=1)
    """Characters of each text field."""
    max_text_bytes: ByteSize = Field(ByteSize(_DEFAULT.max_text_bytes), ge=1)
    """Of all texts of one item or event together, as UTF-8."""
    max_categories: int = Field(_DEFAULT.max_categories, ge=0)
    """Of one item."""
    max_items: int = Field(_DEFAULT.max_items, ge=1)
    """Items in one `PutItems` or `DeleteItems`."""
    max_events: int = Field(_DEFAULT.max_events, ge=1)
    """Events in one call."""
    max_top_k: int | None = Field(None, ge=1)
    max_message_bytes: ByteSize = Field(ByteSize(_DEFAULT.max_message_bytes), ge=1024, lt=2**31)
    """Of one request."""
    max_streams: int = Field(_DEFAULT.max_streams, ge=1)
    """Calls under way on one connection."""
    keepalive: Keepalive = Keepalive()

    @model_validator(mode="after")
    def _texts_fit_a_message(self) -> "Limits":
        if self.max_text_bytes > self.max_message_bytes:
            raise ValueError(
                f"max_text_bytes={int(self.max_text_bytes):,} is over max_message_bytes="
                f"{int(self.max_message_bytes):,}, so that an item within the one could not be sent; lower it"
            )
        return self

    def of_service(self) -> ServiceLimits:
        """What planners check and `Info` publishes."""
        return ServiceLimits(
            max_id_len=self.max_id_len,
            max_text_len=self.max_text_len,
            max_text_bytes=int(self.max_text_bytes),
            max_categories=self.max_categories,
            max_items=self.max_items,
            max_events=self.max_events,
            max_top_k=self.max_candidates if self.max_top_k is None else self.max_top_k,
            max_message_bytes=int(self.max_message_bytes),
            max_streams=self.max_streams,
            min_ping_s=self.keepalive.min_ping_s,
        )
