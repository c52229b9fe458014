"""Settings of what is let in: how long requests may wait, and what each caller may ask for."""

from pydantic import Field

from rcjax.config.strict import StrictModel


class CallerSettings(StrictModel):
    """What one caller may ask for: of which arms, and how many requests a second, with so many at once."""

    arms: tuple[str, ...] | None = None
    """The arms that it may ask for; null: all."""
    requests_per_s: float | None = Field(None, gt=0, allow_inf_nan=False)
    """null: as many as there is room for."""
    burst: int = Field(20, ge=1)
    """Requests that it may send at once."""


class AdmissionSettings(StrictModel):
    """What is refused at once instead of kept waiting.

    A request is refused where it would wait longer than `max_queue_s` for what its caller, and others in turn with
    them, have waiting before it; a write where those under way take more than `max_writes_s` to build, or its caller's
    more than what is left of these. `default_deadline_s` is for requests whose client sets none. A caller who is not
    among `callers`, by the name that `security` gives them, is as `default_caller` says.
    """

    max_queue_s: float = Field(10.0, gt=0, allow_inf_nan=False)
    max_writes_s: float = Field(600.0, gt=0, allow_inf_nan=False)
    default_deadline_s: float = Field(30.0, gt=0, allow_inf_nan=False)
    default_caller: CallerSettings = CallerSettings()
    callers: dict[str, CallerSettings] = Field(default_factory=dict)

    def named_arms(self) -> dict[str, str]:
        """The arms that callers are given, each with the setting that has it."""
        named = {
            "default_caller": self.default_caller,
            **{f"callers.{name}": one for name, one in self.callers.items()},
        }
        return {arm: f"admission.{place}.arms" for place, one in named.items() for arm in one.arms or ()}
