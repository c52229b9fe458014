"""Lets tests here use the tiny engine of the engine's tests, and its fixtures."""

import sys
from pathlib import Path

for folder in ("engine", "serving"):
    sys.path.insert(0, str(Path(__file__).parents[1] / folder))

from engine_fixtures import closing, compiled, engine, oracle, probing, quiet, settings  # noqa: E402, F401
