"""Plans on their way: a host that lays out what came has the plan that was sent."""

import pickle

import numpy as np
import pytest
from tiny_engine import ARMS, event, item

from rcjax.catalog.types import User
from rcjax.cluster.ray.parcel import BlocksSent, GenerationSent, PlanSent
from rcjax.cluster.ray.profile import Planning, Profile
from rcjax.engine.generation import Sampling
from rcjax.engine.plan import Plan
from rcjax.request import RecommendRequest
from rcjax.serving.residency import Residency
from rcjax.serving.startup import OwnSlices


@pytest.fixture
def filled(engine):
    engine.put_items([item(number) for number in range(4)])
    engine.put_user(User("u", (event(1), event(2))))
    return engine


def sent(value):
    """As Ray sends it."""
    return pickle.loads(pickle.dumps(value, protocol=5))


def assert_same(one: Plan, other: Plan) -> None:
    assert other.keys == one.keys
    assert (other.request, other.item_ids, other.version) == (one.request, one.item_ids, one.version)
    assert (other.size, other.block_pages) == (one.size, one.block_pages)
    assert len(other.prompt.blocks) == len(one.prompt.blocks)
    for mine, theirs in zip(one.prompt.blocks, other.prompt.blocks, strict=True):
        assert (theirs.kind, theirs.start, theirs.segment, theirs.horizon, theirs.owner) == (
            mine.kind, mine.start, mine.segment, mine.horizon, mine.owner
        )  # fmt: skip
        assert np.array_equal(theirs.token_ids, mine.token_ids)
    assert (one.row is None) == (other.row is None)


@pytest.mark.parametrize("arm", ARMS)
def test_a_plan_is_laid_out_again_as_it_was(filled, arm):
    request = RecommendRequest(("i0", item(77), "i3"), "u", arm=arm, top_k=2)
    with filled.router.planned(request) as plan:
        parcel = sent(PlanSent.of(plan))
        assert_same(plan, parcel.planned(filled.planner))
        result = filled.worker.submit(parcel.planned(filled.planner), arrival_s=0.0).result()
    (expected,) = filled.recommend([request])
    assert [one.item_id for one in result.ranking] == [one.item_id for one in expected.ranking]


def test_a_request_without_a_history_has_none_there(filled):
    request = RecommendRequest(("i0",), history=(), arm="parallel_anchor_blocks")
    with filled.router.planned(request) as plan:
        assert_same(plan, sent(PlanSent.of(plan)).planned(filled.planner))


def test_keys_are_made_of_what_came(filled):
    """So a block that was damaged on its way, or is of another salt, is never taken for the one that was meant."""
    blocks = [filled.planner.item_block(owner) for owner in filled.library.item_owners]
    parcel = sent(BlocksSent.of(blocks))
    start = len(filled.builder.instruction_ids)
    assert [one.key for one in parcel.planned(start, filled.planner.keys)] == [one.key for one in blocks]
    damaged = parcel.token_ids.copy()
    damaged[0] += 1
    other = BlocksSent(parcel.kinds, parcel.owners, parcel.lens, damaged).planned(start, filled.planner.keys)
    assert other[0].key != blocks[0].key
    assert [one.key for one in other[1:]] == [one.key for one in blocks[1:]]
    assert BlocksSent.of([]).planned(start, filled.planner.keys) == []


def test_what_is_to_be_continued_is_the_same_there(filled):
    greedy = Sampling(max_new_tokens=3)
    text = filled.builder.text_block("Red mug")
    there = sent(GenerationSent.of(text, greedy))
    assert np.array_equal(there.planned(filled.planner).token_ids, text.token_ids)
    assert there.source.version is None
    with filled.router.planned(RecommendRequest(("i0",), "u")) as plan:
        assert_same(plan, sent(GenerationSent.of(plan, greedy)).planned(filled.planner))


def test_a_profile_is_enough_to_plan_by(filled, settings, monkeypatch):
    own = OwnSlices(filled.parts, filled.builder, filled.planner, [filled.worker], Residency(1), filled.info())
    profile = sent(Profile.of(own))
    monkeypatch.setattr("rcjax.cluster.ray.profile.load_tokenizer", lambda spec: filled.parts.model.tokenizer)
    planning = Planning.of(settings, profile, filled.library)
    request = RecommendRequest(("i0", "i1"), "u", arm="parallel_anchor_blocks")
    with filled.router.planned(request) as plan:
        assert_same(plan, planning.planner.plan(request))
    planning.planner.library.versions.end_read(plan.version)
    assert planning.cost.timed() == filled.parts.cost.timed()
    assert planning.cost.build_s(100) == pytest.approx(filled.parts.cost.build_s(100))


def test_settings_that_are_not_the_hosts_are_refused(filled, settings, monkeypatch, tmp_path):
    own = OwnSlices(filled.parts, filled.builder, filled.planner, [filled.worker], Residency(1), filled.info())
    salt = tmp_path / "salt"
    salt.write_bytes(b"s" * 32)
    salt.chmod(0o600)
    monkeypatch.setattr("rcjax.cluster.ray.profile.load_tokenizer", lambda spec: filled.parts.model.tokenizer)
    other = settings.model_copy(update={"server": settings.server.model_copy(update={"key_salt_file": salt})})
    with pytest.raises(ValueError, match="differ from those of the cluster's hosts"):
        Planning.of(other, Profile.of(own))
