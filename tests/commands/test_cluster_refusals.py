"""What `rcjax serve --cluster` and `rcjax cluster` refuse before anything is started: a line each."""

import sys

import pytest
import yaml
from typer.testing import CliRunner

from rcjax.commands.app import app


def said(*words: str) -> str:
    """The only line on stderr of a command that fails, as it has to."""
    result = CliRunner().invoke(app, list(words), env={"NO_COLOR": "1"})
    assert result.exit_code == 1, (result.output, result.exception)
    assert "Traceback" not in result.output
    (line,) = result.stderr.splitlines()
    return line


@pytest.mark.parametrize("address", ["local:", "local:0", "local:-1", "local:two"])
def test_a_local_cluster_has_a_number_of_hosts(address):
    assert "after local: stands the number of hosts, as in local:4" in said("serve", "--cluster", address)


def test_there_are_no_more_hosts_than_places():
    assert said("serve", "--cluster", "local:17").endswith("17 hosts are more than cluster.max_hosts=16; set it higher")


def test_snapshots_are_of_one_host(tmp_path):
    assert "--snapshot is for one host" in said("serve", "--cluster", "local:2", "--snapshot", str(tmp_path))
    config = tmp_path / "config.yaml"
    config.write_text(yaml.safe_dump({"snapshot": {"where": str(tmp_path)}}))
    assert "a cluster takes no snapshots" in said("serve", "--cluster", "local:2", "--config", str(config))


@pytest.mark.parametrize("words", [("serve", "--cluster", "local:2"), ("cluster", "status"), ("cluster", "add")])
def test_without_ray_it_is_said_what_to_install(words, monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", None)
    assert said(*words) == "error: a cluster needs Ray; run: pip install 'rcjax[cluster]'"
