"""The layers of rcjax, and the imports that run back up."""

import ast
from collections.abc import Iterator
from pathlib import Path

# Higher first; a part may import those below it and the others of its own layer. `request` says what an engine is asked
# in terms of the catalogue's items and users.
LAYERS = (
    ("commands", "__init__"),
    ("training", "evaluation", "cluster"),
    ("serving",),
    ("engine",),
    ("config",),
    ("cache", "model"),
    ("kernels", "prompt"),
    ("request",),
    ("tables",),
    ("catalog",),
    ("disk", "errors", "loopback", "yaml_file"),
)
APART = (("cache", "model"), ("engine", "config"))  # the first does not import the second, nor the other way round


def upward_imports(package: Path) -> list[str]:
    """The imports that do not point down, as `file: module`; `package` is the folder of `rcjax`."""
    level = {part: depth for depth, layer in enumerate(LAYERS) for part in layer}
    apart = {pair for one, other in APART for pair in ((one, other), (other, one))}
    found = []
    for path in sorted(package.rglob("*.py")):
        part = path.relative_to(package).parts[0].removesuffix(".py")
        for module in _imported(path):
            other = module.split(".")[1] if "." in module else "__init__"
            if other != part and (level[other] < level[part] or (part, other) in apart):
                found.append(f"{path.relative_to(package.parent)}: {module}")
    return found


def _imported(path: Path) -> Iterator[str]:
    """The modules of rcjax that a file imports, anywhere in it."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            names = [node.module or ""]
            if node.module == "rcjax":
                names = [f"rcjax.{alias.name}" for alias in node.names]
        else:
            continue
        yield from (name for name in names if name.split(".")[0] == "rcjax")
