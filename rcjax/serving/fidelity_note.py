"""What to tell who is about to serve rankings from cached blocks that nobody has compared with full recompute."""

from rcjax.config import Settings
from rcjax.model.adapter import origin_of
from rcjax.prompt import Layout, Reuse


def fidelity_note(settings: Settings) -> str | None:
    """A line where the default arm approximates and nothing says that the model was trained for it, else None.

    In the `sequential` layout a cached item was computed as if it stood first, so that rankings differ from full
    recompute unless every token is computed again. An adapter may say which layout it was trained for.
    """
    name = settings.default_arm
    arm = settings.arms[name]
    if arm.layout is not Layout.SEQUENTIAL or arm.reuse is not Reuse.BLOCKS or arm.selection == "full":
        return None
    origin = None if settings.adapter is None else origin_of(settings.adapter)
    if origin is not None and origin.layout is arm.layout:
        return None
    trained = "" if origin is None else f", and adapter {settings.adapter!r} was trained for layout {origin.layout}"
    return (
        f"default_arm {name!r} ranks from items cached apart from each other{trained}; what that does to its rankings "
        f"is not measured: `rcjax eval --arms {name} --gate 0.005` does, with this --config"
    )
