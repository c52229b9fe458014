"""Fixtures around the tiny engine. One is compiled per process; every test gets a fresh one on its programs."""

import tempfile
from functools import cache
from pathlib import Path

import pytest
from dense_oracle import Oracle
from probing import probing_settings
from tiny_engine import restarted, tiny_engine, tiny_model, tiny_settings

from rcjax.config import Settings
from rcjax.engine.engine import RecommendEngine
from rcjax.serving.startup import start_engine


@cache
def _folder() -> Path:
    return Path(tempfile.mkdtemp(prefix="rcjax-tiny-"))


@cache
def _compiled() -> RecommendEngine:
    return tiny_engine(_folder())


@cache
def _probing() -> tuple[RecommendEngine, Settings]:
    folder = _folder() / "probing"
    folder.mkdir()
    settings = probing_settings(folder)
    return start_engine(settings, model=tiny_model()), settings


@pytest.fixture
def settings() -> Settings:
    return tiny_settings(_folder())


@pytest.fixture
def compiled() -> RecommendEngine:
    """Lends its programs; give it no items and users."""
    return _compiled()


@pytest.fixture
def probing() -> tuple[RecommendEngine, Settings]:
    """An engine whose arms probe, to lend its programs, and its settings."""
    return _probing()


@pytest.fixture(scope="session")
def oracle() -> Oracle:
    return Oracle(tiny_model())


@pytest.fixture
def engine(compiled, settings) -> RecommendEngine:
    return restarted(compiled, settings)
