"""Each setting is explained where it is declared, as the documentation site takes its words from there."""

import ast
from pathlib import Path

import pytest

FOLDER = Path(__file__).parents[2] / "rcjax/config"
MODELS = [
    pytest.param(node, id=node.name)
    for path in sorted(FOLDER.glob("*.py"))
    for node in ast.parse(path.read_text(encoding="utf-8")).body
    if isinstance(node, ast.ClassDef) and any(isinstance(base, ast.Name) for base in node.bases)
]
NAMES = {model.values[0].name for model in MODELS}


@pytest.mark.parametrize("model", MODELS)
def test_each_field_has_words(model: ast.ClassDef) -> None:
    about = ast.get_docstring(model) or ""
    assert about
    for field, below in zip(model.body, [*model.body[1:], ast.Pass()], strict=True):
        if not isinstance(field, ast.AnnAssign):
            continue
        name = ast.unparse(field.target)
        has_own = isinstance(below, ast.Expr) and isinstance(below.value, ast.Constant)
        is_section = bool(NAMES & {part.id for part in ast.walk(field.annotation) if isinstance(part, ast.Name)})
        assert has_own or is_section or f"`{name}`" in about, f"{model.name}.{name} is explained nowhere"


def test_the_models_were_found() -> None:
    assert {"Settings", "Limits", "DiskSettings", "TrainSettings"} <= NAMES
