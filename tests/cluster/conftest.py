"""Lets tests here use the tiny engine of the engine's tests, and its fixtures."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1] / "engine"))
sys.path.insert(0, str(Path(__file__).parents[1] / "serving"))

from engine_fixtures import closing, compiled, engine, settings  # noqa: F401
