"""A slice that dies: what it had is answered by others, writes go on without it, and its end is told."""

import logging

import numpy as np
import pytest
from manual_slice import ManualMesh, block_of, put, user

from rcjax.cache.placement import Placement, RequestLog
from rcjax.errors import DeadlineExceededError, NotFoundError, UnavailableError
from rcjax.prompt import BlockKind, Owner
from rcjax.request import AppendEvents, DeleteItems, DeleteUser, PutUser, RecommendRequest, WriteResult
from rcjax.serving.owners import Hashed, ItemOwners, Placed
from rcjax.serving.scheduler import RoundRobin

ITEM, HISTORY = BlockKind.ITEM, BlockKind.HISTORY


def filled(num_slices: int, **routing: object) -> ManualMesh:
    """With item "a" of content 1 and user "u" of history (2, 3), and requests going round."""
    mesh = ManualMesh(num_slices, policy=RoundRobin(), **routing)
    mesh.do(put("a", 1))
    mesh.do(PutUser(user("u", 2, 3)))
    return mesh


def states(mesh: ManualMesh) -> list[str]:
    return [one.state for one in mesh.router.current_stats().slices]


def test_requests_of_a_dying_slice_are_answered_by_others(caplog: pytest.LogCaptureFixture) -> None:
    with filled(3) as mesh, caplog.at_level(logging.ERROR):
        asked = [mesh.ask("u", "a") for _ in range(6)]
        key = block_of(ITEM, Owner("", "a"), [1]).key
        assert mesh.residency.holders([key]).tolist() == [[1, 1, 1]]
        mesh.slices[1].die()
        assert mesh.residency.holders([key]).tolist() == [[1, 0, 1]]
        assert states(mesh) == ["open", "dead", "open"]
        mesh.run()
        assert [future.result(0).slice_index for future in asked] == [0, 0, 2, 0, 2, 2]  # 0 is next, then 2
        assert {future.result(0).ranking[0].score for future in asked} == {1.0}
        stats = mesh.router.current_stats()
        assert (stats.num_requests, stats.num_failed, stats.num_retries, stats.num_decisions) == (6, 0, 2, 8)
        assert not mesh.router.lost.done()
        assert (stats.pages_total, stats.pool_bytes) == (200, 2000)
    assert "slice 1 is lost" in caplog.text
    assert "the device fell off" in caplog.text


def test_a_request_survives_two_dying_slices_and_no_third() -> None:
    with filled(4) as mesh:
        asked = mesh.ask("u", "a")
        for index in range(2):
            mesh.slices[index].die()
        assert not asked.done()
        mesh.slices[2].die()
        with pytest.raises(UnavailableError, match="3 slices died or stalled with this request"):
            asked.result(0)
        other = mesh.ask("u", "a")
        mesh.run()
        assert other.result(0).slice_index == 3


def test_a_slice_that_takes_nothing_any_more_is_dead_before_it_says_so() -> None:
    with filled(2) as mesh:
        mesh.slices[0].is_dead = True  # refuses what it is given from now on, as a thread that is about to end
        asked = [mesh.ask("u", "a") for _ in range(3)]
        mesh.run()
        assert [future.result(0).slice_index for future in asked] == [1, 1, 1]
        assert states(mesh) == ["dead", "open"]


def test_a_retried_request_keeps_its_deadline() -> None:
    with filled(2) as mesh:
        late = mesh.router.submit(RecommendRequest(("a",), "u"), deadline_s=5.0)
        while not mesh.slices[0].work:
            pass
        (in_time,) = mesh.router.submit_planned([RecommendRequest(("a",), "u")])
        given_up = mesh.ask("u", "a")
        assert given_up.cancel()
        mesh.now_s = 5.0
        mesh.slices[0].die()
        with pytest.raises(DeadlineExceededError):
            late.result(0)
        mesh.run()
        assert in_time.result(0).slice_index == 1
        assert mesh.router.current_stats().num_retries == 0
        assert mesh.library.versions._reads == {}


def test_requests_of_the_last_open_slice_are_unavailable() -> None:
    with filled(2) as mesh:
        mesh.router.drain(1)
        asked = mesh.ask("u", "a")
        mesh.slices[0].die()
        with pytest.raises(UnavailableError, match="draining: 1; dead: 0"):
            asked.result(0)
        mesh.router.undrain(1)
        again = mesh.ask("u", "a")
        mesh.run()
        assert again.result(0).slice_index == 1


def test_the_engine_is_lost_with_its_last_slice() -> None:
    with filled(2) as mesh:
        asked, written = mesh.ask("u", "a"), mesh.write(put("b", 4))
        mesh.slices[1].die()
        assert not mesh.router.lost.done()
        mesh.slices[0].die()
        assert str(mesh.router.lost.exception(0)) == "the device fell off"
        for call in (asked, written):
            with pytest.raises(UnavailableError, match="lost"):
                call.result(0)
        for submit in (lambda: mesh.ask("u", "a"), lambda: mesh.router.submit_write(put("b", 4))):
            with pytest.raises(UnavailableError, match="lost its engine"):
                submit()
        assert mesh.library.num_items == 1  # what nobody could build did not take effect


def test_writes_under_way_count_a_dying_slice_as_done() -> None:
    with filled(3) as mesh:
        writes = [
            mesh.write(put("b", 4)),
            mesh.write(AppendEvents("u", user("u", 5).events)),
            mesh.write(DeleteItems(("a",))),
        ]
        for one in mesh.slices[:2]:
            while one.work:
                one.step()
        mesh.settle()
        assert not any(write.done() for write in writes)
        mesh.slices[2].die()
        mesh.run()
        assert [write.result(0) for write in writes] == [
            WriteResult(num_built=2, num_tokens=1),
            WriteResult(num_built=2, num_tokens=3),
            WriteResult(num_deleted=1),
        ]
        assert all(one.holds(ITEM, "b", 4) and one.holds(HISTORY, "u", 2, 3, 5) for one in mesh.slices[:2])


def test_new_writes_leave_a_dead_slice_out() -> None:
    with filled(3) as mesh:
        mesh.slices[0].die()
        assert mesh.do(put("b", 4)) == WriteResult(num_built=2, num_tokens=1)
        assert mesh.do(PutUser(user("v", 5))) == WriteResult(num_built=2, num_tokens=1)
        assert mesh.do(DeleteItems(("b",))) == WriteResult(num_deleted=1)


def test_an_item_without_living_owners_is_computed_where_it_is_asked_for() -> None:
    placement = Placement.of_part(("a",), np.array([1]), 2)
    with filled(2, owners=ItemOwners(Placed(placement))) as mesh:
        assert [one.holds(ITEM, "a", 1) for one in mesh.slices] == [False, True]
        mesh.slices[1].die()
        assert mesh.do(put("a", 7)) == WriteResult(num_built=0, num_tokens=1)
        asked = mesh.ask("u", "a")
        mesh.run()
        assert (asked.result(0).slice_index, asked.result(0).ranking[0].score) == (0, 7.0)


# ---- owners


def test_items_are_built_on_their_owners_and_histories_on_all() -> None:
    ids = [f"item-{number}" for number in range(30)]
    with ManualMesh(3, owners=ItemOwners(Hashed(3))) as mesh:
        for number, item_id in enumerate(ids):
            assert mesh.do(put(item_id, number)) == WriteResult(num_built=1, num_tokens=1)
        assert mesh.do(PutUser(user("u", 1, 2))) == WriteResult(num_built=3, num_tokens=2)
        for number, item_id in enumerate(ids):
            holders = [one.index for one in mesh.slices if one.holds(ITEM, item_id, number)]
            assert tuple(holders) == Hashed(3).slices_of(item_id)
        asked = mesh.ask("u", *ids[:9])
        mesh.run()
        assert [ranked.score for ranked in asked.result(0).ranking] == list(range(9))
        # A deletion goes to all slices: the request has brought the items to one that does not own them.
        assert mesh.do(DeleteItems(tuple(ids))) == WriteResult(num_deleted=30)
        assert [list(one.held) for one in mesh.slices] == [[(HISTORY, "u")]] * 3


def test_an_item_is_swapped_once_all_its_owners_have_it() -> None:
    placement = Placement.of_pairs(("b",), np.array([0, 0]), np.array([0, 2]), 3)
    with filled(3, owners=ItemOwners(Placed(placement))) as mesh:
        write = mesh.write(put("b", 4))
        assert [len(one.work) for one in mesh.slices] == [1, 0, 1]
        mesh.slices[2].step()
        assert isinstance(mesh.ask("u", "b").exception(0), NotFoundError)
        mesh.slices[0].step()
        assert write.result(0) == WriteResult(num_built=2, num_tokens=1)
        assert not mesh.ask("u", "b").done()


class CopiesCostLess:
    def build_s(self, num_tokens: int) -> float:
        return 2.0 * num_tokens

    def fetch_s(self, num_tokens: int) -> float:
        return 1.0 * num_tokens


def test_where_a_copy_costs_less_one_slice_builds_first() -> None:
    with ManualMesh(3, costs=CopiesCostLess()) as mesh:
        write = mesh.write(PutUser(user("u", 1, 2)))
        assert [len(one.work) for one in mesh.slices] == [1, 0, 0]
        mesh.slices[0].step()
        assert mesh.residency.holders([block_of(HISTORY, Owner("", "u"), [1, 2]).key]).tolist() == [[1, 0, 0]]
        assert [len(one.work) for one in mesh.slices] == [0, 1, 1]  # which now find it at slice 0
        mesh.slices[1].step()
        assert not write.done()
        mesh.slices[2].step()
        assert write.result(0) == WriteResult(num_built=3, num_tokens=2)  # these slices cannot copy


def test_where_the_slice_that_builds_first_dies_the_others_build() -> None:
    with ManualMesh(3, costs=CopiesCostLess()) as mesh:
        write = mesh.write(PutUser(user("u", 1, 2)))
        mesh.slices[0].die()
        mesh.run()
        assert write.result(0) == WriteResult(num_built=2, num_tokens=2)


# ---- the log


def test_requests_are_logged_by_their_items_and_no_more_than_so_many() -> None:
    with filled(2, request_log=RequestLog(2)) as mesh:
        mesh.do(put("b", 4))
        for asked in (["a"], ["b", "a"], ["b"]):
            mesh.ask("u", *asked)
        mesh.ask("u", "unknown")
        assert list(mesh.router.request_log) == [("b", "a"), ("b",)]
        assert mesh.router.request_log.num_dropped == 1
        mesh.run()


def test_the_log_forgets_a_user_who_is_deleted_and_keeps_the_request() -> None:
    with filled(2, request_log=RequestLog(9)) as mesh:
        mesh.do(PutUser(user("v", 1)))
        for asked in ("u", "v"):
            mesh.ask(asked, "a")
        mesh.run()
        mesh.do(DeleteUser("u"))
        mesh.run()
        assert [(r.user_id, r.candidates) for r in mesh.router.request_log.requests] == [("", ("a",)), ("v", ("a",))]
        # A request that was planned before the deletion, and is handed over after it.
        mesh.router._log_request(["a"], RecommendRequest(("a",), "u"))
        assert mesh.router.request_log.requests[-1].user_id == ""


def test_requests_of_other_tenants_are_not_logged() -> None:
    with filled(2, request_log=RequestLog(2)) as mesh:
        mesh.do(put("a", 4, "mail"))
        mesh.do(PutUser(user("u", 1), "mail"))
        answer = mesh.ask("u", "a", tenant="mail")
        mesh.run()
        assert [ranked.score for ranked in answer.result(0).ranking] == [4]
        assert not list(mesh.router.request_log)
