"""Front ends as processes of their own: `rcjax serve --cluster`, of which one dies while another goes on."""

import json
import os
import re
import signal
import subprocess
import sys
import threading

import pytest
import yaml
from hosts_kit import ITEMS, NUM_HOSTS, WAIT_S, asked, close_scores, scores_of, until
from tiny_engine import item

from rcjax.errors import RcjaxError
from rcjax.serving.client import RecommenderClient
from rcjax.serving.retries import NO_RETRIES

pytestmark = pytest.mark.cluster


@pytest.fixture
def served(cluster, tmp_path):
    """A server in front of the cluster, in a process of its own, and where it listens."""
    catalogue = tmp_path / "catalogue"
    catalogue.mkdir()
    first = {"item_id": ITEMS[0].item_id, "title": ITEMS[0].title}
    (catalogue / "items.jsonl").write_text(json.dumps(first) + "\n")
    (catalogue / "users.jsonl").write_text("")
    config = tmp_path / "config.yaml"
    wanted = cluster.settings.model_dump(mode="json", exclude_defaults=True)
    wanted["catalogue"] = {"format": "jsonl", "paths": {"folder": str(catalogue)}}
    config.write_text(yaml.safe_dump(wanted))
    command = [sys.executable, "-m", "rcjax.commands.app", "serve", "--config", str(config), "--port", "0"]
    command += ["--admin-port", "0", "--cluster", cluster.address]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as process:
        said = []
        reading = threading.Thread(target=lambda: said.extend(iter(process.stdout.readline, "")), daemon=True)
        reading.start()
        try:
            until(lambda: "ready:" in "".join(said) or process.poll() is not None)
            assert process.poll() is None, "".join(said)
            (target,) = re.findall(r"listening on (\S+)", "".join(said))
            yield process, target
        finally:
            process.kill()


def test_a_front_end_that_is_killed_takes_no_answered_write_along(cluster, alone, served):
    process, target = served
    request = asked(3)
    written = []
    with RecommenderClient(target, retry=NO_RETRIES) as client:
        expected = scores_of(alone.recommend([request])[0])
        assert scores_of(client.recommend(request)) == close_scores(expected)

        def write() -> None:
            for number in range(2000, 3000):
                try:
                    client.put_items([item(number)])
                except RcjaxError:
                    return
                written.append(f"i{number}")

        writing = threading.Thread(target=write)
        writing.start()
        until(lambda: len(written) >= 5)
        os.kill(process.pid, signal.SIGKILL)
        writing.join(WAIT_S)
    until(lambda: set(written) <= set(cluster.engine.known()[0]))
    (answer,) = cluster.engine.recommend([request])
    assert scores_of(answer) == close_scores(expected)
    assert [one.state for one in cluster.status().hosts] == ["open"] * NUM_HOSTS, "hosts outlive it"
    known = cluster.engine.known()[0]
    cluster.engine.delete_items([one for one in known if one not in {item.item_id for item in ITEMS}])
    assert cluster.status().num_items == len(ITEMS)


def test_a_front_end_that_is_asked_to_stop_leaves_the_cluster_as_it_is(cluster, served):
    process, target = served
    with RecommenderClient(target, retry=NO_RETRIES) as client:
        assert scores_of(client.recommend(asked(1)))
    process.terminate()
    assert process.wait(WAIT_S) == 0
    assert [one.state for one in cluster.status().hosts] == ["open"] * NUM_HOSTS
    assert cluster.status().num_items == len(ITEMS)


def test_commands_show_the_cluster_and_refuse_what_makes_no_sense(cluster):
    def rcjax(*words: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "rcjax.commands.app", "cluster", *words, "--cluster", cluster.address]
        return subprocess.run(
            command, capture_output=True, text=True, timeout=WAIT_S, env={**os.environ, "COLUMNS": "200"}
        )

    shown = rcjax("status")
    assert shown.returncode == 0, shown.stderr
    assert f"{len(ITEMS)} items" in shown.stdout
    assert shown.stdout.count(" open ") == NUM_HOSTS
    refused = rcjax("remove", "rcjax-host-77")
    assert refused.returncode == 1
    assert "no host of this cluster is called 'rcjax-host-77'" in refused.stderr
    assert "Traceback" not in refused.stderr
