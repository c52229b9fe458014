"""Run-time checks of arrays' shapes and dtypes, for calls whose annotations speak of arrays; mypy checks the rest.

To check each call of the modules that have arrays would take much of the suite's time.
"""

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, get_args

import jaxtyping

_checked = jaxtyping.jaxtyped


def install(package: Path) -> None:
    """For all modules of a package that speak of arrays, before they are imported."""
    jaxtyping.jaxtyped = _jaxtyped  # what the hook puts before each function and class
    modules = [
        ".".join(path.relative_to(package.parent).with_suffix("").parts)
        for path in package.rglob("*.py")
        if "jaxtyping" in path.read_text(encoding="utf-8")
    ]
    jaxtyping.install_import_hook(modules, "beartype.beartype")


def _jaxtyped(*, typechecker: Any) -> Callable[[Any], Any]:
    def decorate(annotated: Any) -> Any:
        hints = getattr(annotated, "__annotations__", {}).values()
        return _checked(annotated, typechecker=typechecker) if _speak_of_arrays(hints) else annotated

    return decorate


def _speak_of_arrays(hints: Iterable[Any]) -> bool:
    """Whether one of them is an array's, or has an array's within."""
    return any(_is_array(hint) or _speak_of_arrays(get_args(hint)) for hint in hints)


def _is_array(hint: Any) -> bool:
    if isinstance(hint, str):  # of a type that is defined further down
        return "Array" in hint
    return isinstance(hint, type) and (
        issubclass(hint, jaxtyping.AbstractArray) or hint.__name__ in ("Array", "ArrayImpl", "ndarray")
    )
