"""What a client sees of slices, through a real channel: which one answered, how they are, drains and rebalances."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from fake_slice import Slices, ask

from rcjax.cache.placement import Placement, RequestLog
from rcjax.errors import InvalidRequestError, RcjaxError, UnavailableError
from rcjax.request import Rebalanced
from rcjax.serving.client import RecommenderClient
from rcjax.serving.owners import Hashed, ItemOwners
from rcjax.serving.scheduler import RoundRobin
from rcjax.serving.server import Server, running_server


@dataclass
class Running:
    slices: Slices
    client: RecommenderClient

    def answering(self, num: int) -> list[int]:
        """The slices that answer so many requests."""
        return [self.client.recommend(ask(1)).slice_index for _ in range(num)]


@pytest.fixture
def running() -> Iterator[Running]:
    slices = Slices(3, policy=RoundRobin(), owners=ItemOwners(Hashed(3)), request_log=RequestLog(5))
    slices.router.start()
    with (
        running_server(Server(lambda: slices.router, clock=slices.clock)) as addresses,
        RecommenderClient(addresses.main, addresses.admin, timeout_s=60.0) as client,
    ):
        yield Running(slices, client)


def test_an_answer_says_which_slice_gave_it_and_stats_say_how_they_are(running: Running) -> None:
    assert running.answering(4) == [0, 1, 2, 0]
    running.slices.workers[1].lost.set_exception(RuntimeError("the device fell off"))
    running.client.drain(2)
    assert running.answering(2) == [0, 0]
    stats = running.client.stats()
    assert [one.state for one in stats.slices] == ["open", "dead", "draining"]
    assert [one.num_requests for one in stats.slices] == [4, 1, 1]
    assert (stats.policy, stats.num_decisions, stats.num_retries, stats.num_failed) == ("round_robin", 6, 0, 0)
    assert stats.imbalance == 4 / 2.5  # 4 s of work and 1 s on those that live
    assert stats.pages_total == 8
    running.client.wait_ready(60.0)  # health says that it serves
    running.client.undrain(2)
    assert running.answering(2) == [2, 0]


def test_drains_that_make_no_sense_are_refused(running: Running) -> None:
    running.slices.workers[1].lost.set_exception(RuntimeError("the device fell off"))
    for change in (running.client.drain, running.client.undrain):
        for index, says in ((1, "slice 1 is dead"), (3, "slice 3 of a mesh of 3"), (-1, "slice -1 of a mesh of 3")):
            with pytest.raises(InvalidRequestError, match=says) as caught:
                change(index)
            assert caught.value.field == "slice_index"
    running.client.drain(0)
    running.client.drain(2)
    with pytest.raises(UnavailableError, match="draining: 0, 2; dead: 1"):
        running.answering(1)


def test_a_rebalance_from_a_file(running: Running, tmp_path: Path) -> None:
    ids = tuple(f"item-{number}" for number in range(10))
    part = np.array([Hashed(3).slices_of(item_id)[0] for item_id in ids])
    moved = part.copy()
    moved[4] = (part[4] + 1) % 3
    Placement.of_part(ids, moved, 3).save(tmp_path / "placement.json")
    assert running.client.rebalance_from(tmp_path / "placement.json") == Rebalanced(1, 1, 1)
    assert running.slices.router.owners.slices_of("item-4") == (moved[4],)
    assert running.slices.workers[moved[4]].seen == [["item-4"]]
    assert running.slices.workers[part[4]].seen == [["item-4"]]  # which dropped it


def test_a_file_that_is_no_placement_is_refused(running: Running, tmp_path: Path) -> None:
    (tmp_path / "other.json").write_text("{}")
    Placement.of_part(("item-1",), np.array([0]), 2).save(tmp_path / "two.json")
    for name, says in (("none.json", "No such file"), ("other.json", "no placement"), ("two.json", "the mesh has 3")):
        with pytest.raises(InvalidRequestError, match=says) as caught:
            running.client.rebalance_from(tmp_path / name)
        assert caught.value.field == "placement_file"


def test_the_log_of_requests_is_what_place_reads(running: Running, tmp_path: Path) -> None:
    for numbers in ((1, 2), (3,)):
        running.client.recommend(ask(*numbers))
    assert running.client.save_request_log(tmp_path / "requests.jsonl") == 2
    assert list(RequestLog.load(tmp_path / "requests.jsonl")) == [("item-1", "item-2"), ("item-3",)]
    with pytest.raises(RcjaxError, match=r"no-folder/requests\.jsonl cannot be written"):
        running.client.save_request_log(tmp_path / "no-folder" / "requests.jsonl")
    running.slices.router.request_log = None
    with pytest.raises(InvalidRequestError, match=r"configure mesh\.request_log"):
        running.client.save_request_log(tmp_path / "requests.jsonl")
