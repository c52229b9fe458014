"""Lets tests here use the tiny engine of the engine's tests with its fixtures, and the fake router of serving's."""

import sys
from pathlib import Path

for folder in ("engine", "serving"):
    sys.path.insert(0, str(Path(__file__).parents[1] / folder))

from engine_fixtures import closing, compiled, engine, settings  # noqa: E402, F401
