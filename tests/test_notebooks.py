"""Each notebook is a script and its pair; `make notebooks` runs them, as CI does."""

from pathlib import Path

import jupytext
import pytest

FOLDER = Path(__file__).parents[1] / "notebooks"
NAMES = sorted(path.stem for path in FOLDER.glob("*.py"))


@pytest.mark.parametrize("name", NAMES)
def test_the_pair_says_the_same(name: str) -> None:
    script, notebook = (jupytext.read(FOLDER / f"{name}{suffix}") for suffix in (".py", ".ipynb"))
    cells = [[(cell.cell_type, cell.source) for cell in pair.cells] for pair in (script, notebook)]
    assert cells[0] == cells[1], "run `make notebooks`"


def test_there_is_a_notebook() -> None:
    assert NAMES
