import numpy as np
import pytest

from rcjax.catalog import Catalogue, EmbeddedWorld, Event, Item, Request, User
from rcjax.catalog.negatives import Negatives, NegativeSampler
from rcjax.training.examples import EmbeddedExamples, PairExamples

ITEMS = {f"i{n}": Item(f"i{n}", f"item {n}") for n in range(40)}


def user(name, *numbers):
    return User(name, tuple(Event(f"i{n}", f"item {n}") for n in numbers))


CATALOGUE = Catalogue(ITEMS, {u.user_id: u for u in (user("a", 0, 1, 2, 3, 1, 4), user("b", 5, 6), user("c", 7))})


def pairs(**options):
    fields = {"num_candidates": 6, "max_events": 2} | options
    sampler = NegativeSampler(CATALOGUE, Negatives.UNIFORM)
    return PairExamples(CATALOGUE, list(CATALOGUE.users.values()), sampler, **fields)


@pytest.mark.parametrize("options", [{}, {"requests_per_user": 3}, {"pool": 30}])
def test_a_pair_is_a_user_s_past_and_what_came_later(options):
    owned = {"a": ["i0", "i1", "i2", "i3", "i4"], "b": ["i5", "i6"]}
    for example in pairs(**options).draw(np.random.default_rng(0), 200):
        history = [e.item_id for e in example.history]
        target = example.candidates[example.choices[0]].item_id
        (own,) = (events for events in owned.values() if target in events)
        at = own.index(history[0])
        assert own[at : at + len(history)] == history
        assert own.index(target) >= at + len(history)
        assert 1 <= len(history) <= 2
        ids = {c.item_id for c in example.candidates}
        assert len(ids) == 6
        assert ids & set(own) == {target}


def test_a_list_has_several_later_items_where_there_are():
    own = ["i0", "i1", "i2", "i3", "i4"]
    counts = set()
    for example in pairs(choices_per_request=3, requests_per_user=2).draw(np.random.default_rng(0), 200):
        chosen = [example.candidates[i].item_id for i in example.choices]
        if chosen[0] not in own:
            continue
        last = own.index(example.history[-1].item_id)
        assert len(set(chosen)) == len(chosen)
        assert min(own.index(item_id) for item_id in chosen) > last
        assert {c.item_id for c in example.candidates} & set(own) == set(chosen)
        assert len({c.item_id for c in example.candidates}) == 6
        counts.add(len(chosen))
    assert counts == {1, 2, 3}


def test_a_history_is_what_came_right_before():
    """All later items are chosen here, so the first of these follows the last event of the history."""
    own = ["i0", "i1", "i2", "i3", "i4"]
    starts = set()
    for example in pairs(choices_per_request=5, num_candidates=7).draw(np.random.default_rng(0), 100):
        chosen = [example.candidates[i].item_id for i in example.choices]
        if chosen[0] in own:
            ends_at = own.index(example.history[-1].item_id) + 1
            assert ends_at == min(map(own.index, chosen))
            assert [e.item_id for e in example.history] == own[max(0, ends_at - 2) : ends_at]
            starts.add(ends_at)
    assert starts == {1, 2, 3, 4}


@pytest.mark.parametrize("pool", [None, 30])
def test_recall_asks_for_an_item_of_the_history(pool):
    examples = pairs(recall_share=1.0, choices_per_request=2, pool=pool).draw(np.random.default_rng(0), 50)
    for example in examples:
        history = {event.item_id for event in example.history}
        ids = [item.item_id for item in example.candidates]
        assert history & set(ids) == {ids[example.choices[0]]}
        assert len(example.choices) == 1
        assert len(set(ids)) == 6
    drawn = pairs(recall_share=0.3).draw(np.random.default_rng(0), 500)
    recalled = [e.candidates[e.choices[0]].item_id in {h.item_id for h in e.history} for e in drawn]
    assert 0.2 < np.mean(recalled) < 0.4


def test_a_list_of_choices_alone_is_refused():
    with pytest.raises(ValueError, match="choices_per_request=6"):
        pairs(choices_per_request=6)


def test_draws_depend_on_the_generator_alone():
    assert pairs().draw(np.random.default_rng(3), 20) == pairs().draw(np.random.default_rng(3), 20)
    assert pairs().draw(np.random.default_rng(3), 20) != pairs().draw(np.random.default_rng(4), 20)


def test_a_pool_is_shared_by_all_examples_of_a_draw():
    examples = pairs(pool=12).draw(np.random.default_rng(0), 100)
    negatives = {c.item_id for e in examples for i, c in enumerate(e.candidates) if i != e.choices[0]}
    assert len(negatives) <= 12


def test_a_pool_that_is_too_small_says_so():
    with pytest.raises(ValueError, match=r"leaves \d of num_items=5"):
        pairs(pool=6).draw(np.random.default_rng(0), 300)


def test_users_without_a_later_event_are_no_pairs():
    with pytest.raises(ValueError, match="no pairs"):
        PairExamples(
            CATALOGUE,
            [CATALOGUE.users["c"]],
            NegativeSampler(CATALOGUE, Negatives.UNIFORM),
            num_candidates=3,
            max_events=2,
        )


def test_embedded_examples_are_the_world_s_requests():
    world = EmbeddedWorld(0)
    source = EmbeddedExamples(world, "validation", 5, requests_per_user=2, num_users=3)
    examples = source.draw(np.random.default_rng(0), 7)
    assert len(examples) == 7
    assert examples[0].history == examples[1].history
    known = {}
    for index in range(3):
        for round_ in range(2):
            request = world.request("validation", index, round_, 5)
            known[request.candidates] = world.user(request.user_id).events
    for example in examples:
        assert example.history == known[tuple(c.item_id for c in example.candidates)]
        assert len(example.choices) == 1


def test_embedded_users_choose_as_their_profile_says():
    world = EmbeddedWorld(0)
    source = EmbeddedExamples(world, "train", 5, choices_per_request=4000, num_users=3)
    (example,) = source.draw(np.random.default_rng(1), 1)
    ids = tuple(c.item_id for c in example.candidates)
    (name,) = [f"train-{n:05d}" for n in range(3) if world.user(f"train-{n:05d}").events == example.history]
    shares = np.bincount(example.choices, minlength=5) / 4000
    expected = world.oracle_scores(Request(name, ids))
    np.testing.assert_allclose(shares, expected, atol=5 * np.sqrt(0.25 / 4000))


def test_embedded_requests_can_share_a_pool():
    world = EmbeddedWorld(0)
    source = EmbeddedExamples(world, "train", 5, requests_per_user=2, pool=30)
    examples = source.draw(np.random.default_rng(0), 40)
    assert len({c.item_id for e in examples for c in e.candidates}) <= 30
    for example in examples:
        ids = [c.item_id for c in example.candidates]
        assert len(set(ids)) == 5
        assert not set(ids) & {event.item_id for event in example.history}
