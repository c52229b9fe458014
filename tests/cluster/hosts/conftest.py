"""One cluster for all tests here: Ray takes some seconds to start, and each host some more to load and compile."""

import pytest
from hosts_kit import ITEMS, USERS, Cluster, running_cluster

from rcjax.serving.startup import start_engine


@pytest.fixture(scope="session")
def whole(tmp_path_factory):
    with running_cluster(tmp_path_factory.mktemp("hosts")) as cluster:
        yield cluster


@pytest.fixture
def cluster(whole) -> Cluster:
    """The cluster, with all its hosts open."""
    whole.wait_whole()
    return whole


@pytest.fixture(scope="session")
def alone(whole):
    """An engine of this process alone, with the same model, items and users."""
    with start_engine(whole.settings) as engine:
        engine.put_items(ITEMS)
        for user in USERS:
            engine.put_user(user)
        yield engine
