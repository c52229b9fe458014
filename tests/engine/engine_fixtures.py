"""Fixtures around the tiny engine. Its programs are compiled once per process; every test gets an engine of its own."""

import tempfile
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest
from dense_oracle import Oracle
from probing import probing_settings
from tiny_engine import TinyEngine, close_all, compiled_parts, restarted, tiny_model, tiny_settings, unstarted

from rcjax.config import Settings
from rcjax.prompt import PromptBuilder
from rcjax.serving.slices import SliceParts

Compiled = tuple[SliceParts, PromptBuilder]


@cache
def _settings() -> Settings:
    return tiny_settings(Path(tempfile.mkdtemp(prefix="rcjax-tiny-")))


@cache
def _probing_settings() -> Settings:
    return probing_settings(Path(tempfile.mkdtemp(prefix="rcjax-probing-")))


@cache
def _compiled() -> Compiled:
    return compiled_parts(_settings())


@cache
def _compiled_probing() -> Compiled:
    return compiled_parts(_probing_settings())


@pytest.fixture(autouse=True)
def closing() -> Iterator[None]:
    yield
    close_all()


@pytest.fixture
def settings() -> Settings:
    return _settings()


@pytest.fixture
def compiled() -> Compiled:
    """The programs of the tiny engine."""
    return _compiled()


@pytest.fixture
def probing() -> tuple[Compiled, Settings]:
    """The programs of an engine whose arms probe, and its settings."""
    return _compiled_probing(), _probing_settings()


@pytest.fixture(scope="session")
def oracle() -> Oracle:
    return Oracle(tiny_model())


@pytest.fixture
def engine(compiled, settings) -> TinyEngine:
    return restarted(compiled, settings)


@pytest.fixture
def quiet(compiled, settings) -> TinyEngine:
    """An engine whose threads are not started: a test drives its cache itself."""
    return unstarted(compiled, settings)
