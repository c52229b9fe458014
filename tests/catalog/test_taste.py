"""The posterior against a plain enumeration and against simulation, in a world of three profiles and five items."""

import itertools
import math

import numpy as np
import pytest

from rcjax.catalog.taste import TasteModel, Trace

NUM_PROFILES, NUM_ITEMS, NUM_ASPECTS = 3, 5, 2


def tiny_model(seed: int = 0, **changes: float) -> TasteModel:
    rng = np.random.default_rng(seed)
    return TasteModel(
        prior=np.array([0.5, 0.3, 0.2]),
        aspects=rng.normal(0.0, 1.5, (NUM_PROFILES, NUM_ITEMS, NUM_ASPECTS)),
        popularity=np.array([0.4, 0.3, 0.15, 0.1, 0.05]),
        **changes,
    )


def joint_probability(model: TasteModel, profile: int, trace: Trace, sharpness: float = 0.5) -> float:
    """P(profile, history), written out event by event from the definitions."""
    utility = [sum(model.aspects[profile, item]) for item in range(NUM_ITEMS)]
    probability, left = model.prior[profile], set(range(NUM_ITEMS))
    for item, rating, mention in zip(trace.items, trace.ratings, trace.mentions, strict=True):
        weight = {i: model.popularity[i] * math.exp(sharpness * utility[i]) for i in left}
        probability *= weight[item] / sum(weight.values())
        left.remove(item)
        middle = 3 + 2 * math.tanh(utility[item] / 4)
        bells = [math.exp(-((r - middle) ** 2) / (2 * 0.8**2)) for r in range(1, 6)]
        probability *= bells[rating - 1] / sum(bells)
        sign = 1 if rating >= 3 else -1
        pulls = [math.exp(0.8 * sign * worth) for worth in model.aspects[profile, item]]
        probability *= pulls[mention] / sum(pulls)
    return probability


def all_traces(num_events: int) -> list[Trace]:
    return [
        Trace(items, ratings, mentions)
        for items in itertools.permutations(range(NUM_ITEMS), num_events)
        for ratings in itertools.product(range(1, 6), repeat=num_events)
        for mentions in itertools.product(range(NUM_ASPECTS), repeat=num_events)
    ]


@pytest.mark.parametrize("changes", [{}, {"history_sharpness": 2.0}])
def test_posterior_is_the_enumerated_one_and_all_histories_sum_to_one(changes: dict[str, float]) -> None:
    model, total = tiny_model(**changes), 0.0
    for trace in all_traces(2):
        joint = np.array([joint_probability(model, p, trace, *changes.values()) for p in range(NUM_PROFILES)])
        total += joint.sum()
        assert model.posterior(trace) == pytest.approx(joint / joint.sum(), rel=1e-9)
    assert total == pytest.approx(1.0)


def test_without_a_history_the_posterior_is_the_prior() -> None:
    assert tiny_model().posterior(Trace((), (), ())) == pytest.approx(tiny_model().prior)


def test_a_history_of_every_item_has_a_posterior() -> None:
    model, trace = tiny_model(), Trace((4, 3, 2, 1, 0), (5, 4, 3, 2, 1), (0, 1, 0, 1, 0))
    joint = np.array([joint_probability(model, profile, trace) for profile in range(NUM_PROFILES)])
    assert model.posterior(trace) == pytest.approx(joint / joint.sum(), rel=1e-6)


def test_target_probabilities_match_simulated_users_with_that_history() -> None:
    """Users are simulated blindly; among those who happen to have the history, targets are counted."""
    model, rng, candidates = tiny_model(1), np.random.default_rng(7), np.array([1, 2, 3])
    history, num_users = (0, 4), 30_000

    def drawn(weights: np.ndarray) -> np.ndarray:
        totals = weights.cumsum(axis=1)
        return (rng.random((num_users, 1)) * totals[:, -1:] >= totals).sum(axis=1)

    profiles = drawn(np.tile(model.prior, (num_users, 1)))
    weights = model.popularity * np.exp(model.aspects[profiles].sum(axis=2) / 2)
    first = drawn(weights)
    weights[np.arange(num_users), first] = 0.0
    second = drawn(weights)
    chosen = drawn(np.exp(model.aspects[profiles][:, candidates].sum(axis=2)))
    targets = chosen[(first == history[0]) & (second == history[1])]
    # ratings and mentions summed out: the average over what could have been said
    expected = np.zeros(3)
    total = 0.0
    for ratings in itertools.product(range(1, 6), repeat=2):
        for mentions in itertools.product(range(NUM_ASPECTS), repeat=2):
            trace = Trace(history, ratings, mentions)
            probability = sum(joint_probability(model, profile, trace) for profile in range(NUM_PROFILES))
            expected += probability * model.target_probabilities(trace, candidates)
            total += probability
    expected /= total
    assert len(targets) > 300
    shares = np.bincount(targets, minlength=3) / len(targets)
    assert shares == pytest.approx(expected, abs=4 * math.sqrt(0.25 / len(targets)))


def test_no_ranking_rule_beats_the_posterior_ranking() -> None:
    """Summed over every history: the best order for each is the order of the target probabilities."""
    model, candidates, gain = tiny_model(2), [1, 2, 4], (1.0, 1 / math.log2(3), 0.5)
    for trace in [trace for trace in all_traces(2) if set(trace.items) == {0, 3}]:
        joint = [joint_probability(model, profile, trace) for profile in range(NUM_PROFILES)]
        appeals = np.exp(model.aspects.sum(axis=2)[:, candidates])
        choice = appeals / appeals.sum(axis=1, keepdims=True)
        value = {
            order: sum(joint[p] * choice[p, c] * gain[place] for p in range(3) for place, c in enumerate(order))
            for order in itertools.permutations(range(3))
        }
        scores = model.target_probabilities(trace, np.array(candidates))
        ranked = tuple(int(c) for c in np.argsort(-scores))
        assert value[ranked] == pytest.approx(max(value.values()), rel=1e-9)
