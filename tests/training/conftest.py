"""Lets training's tests use the tiny engine and its model: what is trained must be what is served."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1] / "engine"))
