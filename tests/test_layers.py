"""Imports point down only, as the table of benchmarks/layers.py says."""

import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT / "benchmarks"))

from layers import LAYERS, upward_imports  # noqa: E402


def test_imports_point_down() -> None:
    assert upward_imports(ROOT / "rcjax") == []


def test_every_part_has_a_layer() -> None:
    parts = {path.name.removesuffix(".py") for path in (ROOT / "rcjax").iterdir() if path.name != "__pycache__"}
    assert parts - {"adapters", "py.typed", "templates"} <= {part for layer in LAYERS for part in layer}


@pytest.mark.parametrize(
    ("file", "line", "is_found"),
    [
        ("model/decoder.py", "from rcjax.cache import pages", True),
        ("cache/pages.py", "import rcjax.model.decoder", True),
        ("prompt/blocks.py", "def f():\n    from rcjax.engine.plan import Plan", True),
        ("errors.py", "from rcjax import request", True),
        ("engine/plan.py", "from rcjax.config import Settings", True),
        ("commands/app.py", "from rcjax.errors import RcjaxError", False),
        ("kernels/kv.py", "from rcjax.prompt import Block", False),
        ("model/decoder.py", "from jax import config", False),
    ],
)
def test_what_runs_back_up_is_found(tmp_path: Path, file: str, line: str, is_found: bool) -> None:
    path = tmp_path / "rcjax" / file
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(line)
    assert bool(upward_imports(tmp_path / "rcjax")) == is_found
