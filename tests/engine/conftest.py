"""Lets tests here use the tiny engine of the engine's tests, and its fixtures."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1] / "engine"))

from engine_fixtures import compiled, engine, oracle, probing, settings  # noqa: F401
