"""Lets tests here use the tiny engine of the engine's tests, and its fixtures."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1] / "engine"))

from engine_fixtures import closing, compiled, engine, oracle, probing, quiet, settings  # noqa: F401
