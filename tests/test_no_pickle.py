"""Nothing in rcjax reads a pickle or runs what it reads: who can write such a file runs code in the server."""

import ast
from pathlib import Path

import pytest
import yaml

from rcjax.yaml_file import _OnceLoader

ROOT = Path(__file__).parents[1]
MODULES = {"pickle", "cPickle", "_pickle", "cloudpickle", "dill", "joblib", "marshal", "shelve"}
NAMES = {"eval", "exec"}
ATTRIBUTES = {("torch", "load"), ("yaml", "unsafe_load"), ("yaml", "full_load"), ("pd", "read_pickle")}


def dangers(source: str) -> list[int]:
    """The lines that import a module that unpickles, allow NumPy to, or run text as code."""
    found = []
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            is_danger = any(alias.name.split(".")[0] in MODULES for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            is_danger = (node.module or "").split(".")[0] in MODULES
        elif isinstance(node, ast.Call):
            is_danger = is_dangerous_call(node)
        else:
            continue
        if is_danger:
            found.append(node.lineno)
    return found


def is_dangerous_call(call: ast.Call) -> bool:
    allowed = [word.value for word in call.keywords if word.arg == "allow_pickle"]
    if any(not (isinstance(value, ast.Constant) and value.value is False) for value in allowed):
        return True
    if isinstance(call.func, ast.Name):
        return call.func.id in NAMES
    if isinstance(call.func, ast.Attribute) and isinstance(call.func.value, ast.Name):
        return (call.func.value.id, call.func.attr) in ATTRIBUTES
    return False


def test_nothing_in_rcjax_unpickles() -> None:
    files = sorted((ROOT / "rcjax").rglob("*.py"))
    assert len(files) > 300
    found = {str(path.relative_to(ROOT)): dangers(path.read_text(encoding="utf-8")) for path in files}
    assert {path: lines for path, lines in found.items() if lines} == {}


def test_yaml_makes_plain_values_only() -> None:
    assert issubclass(_OnceLoader, yaml.SafeLoader)


@pytest.mark.parametrize(
    ("source", "is_found"),
    [
        ("import pickle", True),
        ("from cloudpickle import loads", True),
        ("import os, dill.settings", True),
        ("np.load(path, allow_pickle=True)", True),
        ("np.load(path, allow_pickle=trusted)", True),
        ("np.load(path, allow_pickle=False)", False),
        ("torch.load(path)", True),
        ("eval('1')", True),
        ("np.load(path)", False),
        ("model.eval()", False),
        ("text = 'import pickle'", False),
    ],
)
def test_what_would_be_found(source: str, is_found: bool) -> None:
    assert bool(dangers(source)) == is_found
