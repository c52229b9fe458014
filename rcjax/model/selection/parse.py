"""Selection policies as settings write them."""

import ast
from dataclasses import fields
from typing import Any

from rcjax.model.selection.fixed import BoundarySelection, FullSelection, NoSelection, OfflineSelection
from rcjax.model.selection.policy import SelectionPolicy
from rcjax.model.selection.scored import DeviationSelection, HeavyHitterSelection, QuerySelection
from rcjax.model.selection.union import UnionSelection

POLICIES: dict[str, type[SelectionPolicy]] = {
    "none": NoSelection,
    "full": FullSelection,
    "boundary": BoundarySelection,
    "offline": OfflineSelection,
    "heavy_hitter": HeavyHitterSelection,
    "deviation": DeviationSelection,
    "query": QuerySelection,
}
EXAMPLES = (
    "none, full, boundary(first=4, last=2), offline(k=8), deviation(r=0.15, layers=1, narrow=(0.4, 0.25)), "
    "heavy_hitter(r_item=0.3, r_history=0.3, lam=0.5, window=16), query(r=0.15, layers=0), "
    "boundary(first=2) + deviation(r=0.15)"
)


def parse_policy(text: str) -> SelectionPolicy:
    """Reads `boundary(first=2) + deviation(r=0.15)` and the like; ValueError for anything else."""
    try:
        tree = ast.parse(text.strip(), mode="eval").body
    except (SyntaxError, ValueError) as error:  # ValueError: a NUL byte
        raise ValueError(f"selection policy {text!r} is none of: {EXAMPLES}") from error
    try:
        parts = tuple(map(_policy, _parts(tree)))
        return parts[0] if len(parts) == 1 else UnionSelection(parts)
    except _UnknownError as error:
        raise ValueError(f"selection policy {text!r} is none of: {EXAMPLES}") from error
    except ValueError as error:
        raise ValueError(f"selection policy {text!r}: {error}") from error


class _UnknownError(ValueError):
    pass


def _parts(tree: ast.expr) -> list[ast.expr]:
    if isinstance(tree, ast.BinOp) and isinstance(tree.op, ast.Add):
        return [*_parts(tree.left), *_parts(tree.right)]
    return [tree]


def _policy(tree: ast.expr) -> SelectionPolicy:
    name, keywords = tree, []
    if isinstance(tree, ast.Call) and not tree.args:
        name, keywords = tree.func, tree.keywords
    if not isinstance(name, ast.Name) or name.id not in POLICIES:
        raise _UnknownError
    policy = POLICIES[name.id]
    names = [keyword.arg for keyword in keywords]
    known = {field.name: field.default for field in fields(policy)}  # type: ignore[arg-type]
    if not set(names) <= set(known):
        raise ValueError(f"{name.id} takes {', '.join(known) or 'nothing'}")
    if len(set(names)) != len(names):
        raise ValueError(f"an argument of {name.id} occurs twice")
    return policy(**{str(k.arg): _value(k.value, str(k.arg), known[str(k.arg)]) for k in keywords})


def _value(tree: ast.expr, name: str, default: Any) -> Any:
    """The argument's value, of the type that its default has."""
    try:
        value = ast.literal_eval(tree)
    except ValueError as error:
        raise ValueError(f"{name} is not a number") from error
    numbers = value if isinstance(default, tuple) and isinstance(value, tuple) else (value,)
    wanted = (int,) if isinstance(default, int) else (int, float)
    if not all(type(number) in wanted for number in numbers):
        raise ValueError(f"{name}={value!r} must be {'a whole number' if wanted == (int,) else 'a number'}")
    if isinstance(default, tuple):
        return tuple(map(float, numbers))
    return type(default)(value)
