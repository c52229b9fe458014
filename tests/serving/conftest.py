"""One tiny engine is compiled per test run; every test gets a fresh one on its programs."""

import pytest
from dense_oracle import Oracle
from probing import probing_settings
from tiny_engine import restarted, tiny_engine, tiny_model, tiny_settings

from rcjax.config import Settings
from rcjax.serving.engine import RecommendEngine
from rcjax.serving.startup import start_engine


@pytest.fixture(scope="session")
def settings(tmp_path_factory) -> Settings:
    return tiny_settings(tmp_path_factory.mktemp("tiny"))


@pytest.fixture(scope="session")
def compiled(settings) -> RecommendEngine:
    """Lends its programs; give it no items and users."""
    return tiny_engine(settings.compilation_cache_dir().parent)


@pytest.fixture(scope="session")
def probing(tmp_path_factory) -> tuple[RecommendEngine, Settings]:
    """An engine whose arms probe, to lend its programs, and its settings."""
    settings = probing_settings(tmp_path_factory.mktemp("probing"))
    return start_engine(settings, model=tiny_model()), settings


@pytest.fixture(scope="session")
def oracle() -> Oracle:
    return Oracle(tiny_model())


@pytest.fixture
def engine(compiled, settings) -> RecommendEngine:
    return restarted(compiled, settings)
