"""Which arms are evaluated, and the full recompute that each is compared with."""

from collections.abc import Sequence

from rcjax.config import ArmSettings, Settings
from rcjax.prompt import Reuse

References = dict[str, str | None]  # by arm; None for a full recompute, which is compared with nothing


def arm_order(settings: Settings) -> list[str]:
    """The arms, those that reuse the least first."""
    return sorted(settings.arms, key=lambda name: list(Reuse).index(settings.arms[name].reuse))


def baselines(settings: Settings) -> list[str]:
    """The arms that others are compared with: full recompute and prefix caching."""
    return [name for name in arm_order(settings) if settings.arms[name].reuse in (Reuse.NONE, Reuse.PREFIX)]


def chosen_arms(settings: Settings, names: Sequence[str] = ()) -> dict[str, ArmSettings]:
    """The named arms (all, if none is named), those that reuse the least first; ValueError for an unknown name."""
    if unknown := [name for name in names if name not in settings.arms]:
        raise ValueError(f"arm {unknown[0]!r} is not one of the settings' arms: {', '.join(settings.arms)}")
    return {name: settings.arms[name] for name in arm_order(settings) if not names or name in names}


def compared_arms(settings: Settings, names: Sequence[str] = ()) -> tuple[dict[str, ArmSettings], References]:
    """The named arms of the settings (all, if none is named) after the references they need.

    An arm's reference is the full recompute of the same layout and scoring, which shows the model the same prompt.
    Where the settings have none, one is added under a name such as `full/parallel/anchor`. ValueError for an unknown
    name.
    """
    arms: dict[str, ArmSettings] = {}
    references: References = {}
    for name, arm in chosen_arms(settings, names).items():
        if arm.reuse is Reuse.NONE:
            references[name] = None
            arms[name] = arm
            continue
        references[name] = reference = _reference_name(settings, arm)
        arms[reference] = settings.arms.get(reference) or ArmSettings(
            layout=arm.layout, scoring=arm.scoring, reuse=Reuse.NONE
        )
        references[reference] = None
        arms[name] = arm
    ordered = sorted(arms, key=lambda name: arms[name].reuse is not Reuse.NONE)
    return {name: arms[name] for name in ordered}, {name: references[name] for name in ordered}


def _reference_name(settings: Settings, arm: ArmSettings) -> str:
    for name, other in settings.arms.items():
        if other.reuse is Reuse.NONE and (other.layout, other.scoring) == (arm.layout, arm.scoring):
            return name
    return f"full/{arm.layout}/{arm.scoring}"
