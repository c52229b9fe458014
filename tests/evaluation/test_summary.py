"""Figures of scripted arms against values computed by hand."""

import dataclasses
import math

import numpy as np
import pytest
from scripted_engine import ScriptedEngine, number, numbered

from rcjax.evaluation.gate import gate_violations
from rcjax.evaluation.ranking import METRICS, Rank
from rcjax.evaluation.runner import ArmRun, run_arms
from rcjax.evaluation.summary import Estimate, baseline_summary, summarise

CATALOGUE = numbered(num_users=40, num_items=50)
REQUESTS = CATALOGUE.requests
TARGETS = {(request.user_id, request.target) for request in REQUESTS}
REFERENCES = {"full": None, "same": "full", "worse": "full"}


def knows_the_target(request):
    return [float((request.user_id, item_id) in TARGETS) for item_id in request.candidates]


def wrong_for_one_in_four(request):
    scores = knows_the_target(request)
    return [-score for score in scores] if number(request.user_id) % 4 == 0 else scores


def runs(**scripts) -> dict[str, ArmRun]:
    return run_arms(ScriptedEngine(scripts), CATALOGUE, list(scripts), num_permutations=0)


@pytest.fixture(scope="module")
def summaries():
    all_runs = runs(full=knows_the_target, same=knows_the_target, worse=wrong_for_one_in_four)
    return summarise(all_runs, REFERENCES, REQUESTS, num_resamples=500)


def test_quality_counts_where_the_target_came(summaries) -> None:
    assert [estimate.value for estimate in summaries["full"].metrics.values()] == [1.0] * len(METRICS)
    worse = summaries["worse"].metrics
    # a quarter of the targets came last of four
    assert worse["hit_at_1"].value == 0.75
    assert worse["hit_at_3"].value == 0.75
    assert worse["hit_at_5"].value == 1.0
    assert worse["mrr"].value == pytest.approx(0.75 + 0.25 / 4)
    assert worse["ndcg_at_10"].value == pytest.approx(0.75 + 0.25 / math.log2(5))
    assert summaries["worse"].ranks[:2] == (Rank(4, 4), Rank(1, 1))


def test_differences_are_to_the_reference_with_their_own_interval(summaries) -> None:
    assert summaries["full"].reference is None
    assert summaries["full"].differences is None
    assert summaries["full"].fidelity is None
    assert all(d == Estimate(0.0, 0.0, 0.0) for d in summaries["same"].differences.values())
    difference = summaries["worse"].differences["hit_at_1"]
    assert difference.value == -0.25
    # the share of misses scatters like a binomial: 2 standard errors are .137
    assert difference.low == pytest.approx(-0.25 - 0.137, abs=0.03)
    assert difference.high == pytest.approx(-0.25 + 0.137, abs=0.03)


def test_a_user_who_is_asked_nine_times_is_one_observation_still(summaries) -> None:
    """All alike: the same mean with the same interval. Taken for nine users, it would be a third as wide."""
    requests = tuple(request for request in REQUESTS for _ in range(9))
    scripts = {"full": knows_the_target, "worse": wrong_for_one_in_four}
    often = run_arms(ScriptedEngine(scripts), dataclasses.replace(CATALOGUE, requests=requests), list(scripts))
    found = summarise(often, REFERENCES, requests, num_resamples=500)["worse"]
    assert flat(found.metrics) == pytest.approx(flat(summaries["worse"].metrics))
    assert flat(found.differences) == pytest.approx(flat(summaries["worse"].differences))


def test_so_it_is_for_a_baseline() -> None:
    requests = tuple(request for request in REQUESTS for _ in range(9))
    once, often = (
        baseline_summary([np.array(wrong_for_one_in_four(r)) for r in asked], asked, num_resamples=500)
        for asked in (REQUESTS, requests)
    )
    assert once.metrics["hit_at_1"].low < 0.75 < once.metrics["hit_at_1"].high
    assert flat(often.metrics) == pytest.approx(flat(once.metrics))


def flat(estimates) -> dict[tuple[str, str], float]:
    return {(name, of): x for name, one in estimates.items() for of, x in dataclasses.asdict(one).items()}


def test_fidelity_tokens_and_times(summaries) -> None:
    assert summaries["same"].fidelity.top1_agreement == 1.0
    assert summaries["same"].fidelity.max_score_difference == 0.0
    assert summaries["worse"].fidelity.top1_agreement == 0.75
    assert summaries["worse"].fidelity.num_requests == 40
    tokens = summaries["worse"].tokens
    assert (tokens.fresh, tokens.probed) == (6 / 16, 8 / 16)
    assert (tokens.selected, tokens.built, tokens.semantic) == (2 / 12, 3 / 12, 5 / 12)
    assert summaries["worse"].ttft_ms == {"p50": 7.0, "p90": 7.0, "p99": 7.0}


def test_a_refused_request_ranks_its_target_last_and_is_left_out_of_fidelity() -> None:
    def refuses_some(request):
        return None if number(request.user_id) % 4 == 0 else knows_the_target(request)

    summary = summarise(runs(full=knows_the_target, same=refuses_some), REFERENCES, REQUESTS, num_resamples=50)["same"]
    assert summary.num_invalid == 10
    assert summary.metrics["hit_at_3"].value == 0.75
    assert summary.metrics["mrr"].value == pytest.approx(0.75 + 0.25 / 4)
    assert summary.fidelity.num_requests == 30
    assert summary.fidelity.top1_agreement == 1.0


def test_position_bias_of_an_arm_that_looks_at_places_and_of_one_that_does_not() -> None:
    def by_place(request):
        return [float(-place) for place in range(len(request.candidates))]

    scripts = {"full": knows_the_target, "place": by_place}
    both = run_arms(ScriptedEngine(scripts), CATALOGUE, list(scripts), num_permutations=30)
    found = summarise(both, {"full": None, "place": None}, REQUESTS, num_resamples=10)
    assert found["full"].position_bias.kendall_tau == 1.0
    assert found["full"].position_bias.top1_agreement == 1.0
    assert found["full"].position_bias.ndcg_at_10 == (1.0,) * 31
    bias = found["place"].position_bias
    # two random orders: tau is 0 and the first of four the same one time in four, n = 1,200
    assert bias.kendall_tau == pytest.approx(0.0, abs=0.08)
    assert bias.top1_agreement == pytest.approx(0.25, abs=0.06)
    chance = np.mean([1 / math.log2(1 + place) for place in (1, 2, 3, 4)])
    assert np.mean(bias.ndcg_at_10[1:]) == pytest.approx(chance, abs=0.03)
    assert summarise(runs(full=knows_the_target), REFERENCES, REQUESTS, num_resamples=10)["full"].position_bias is None


def test_a_baseline_that_ties_everything_is_at_chance() -> None:
    summary = baseline_summary([np.zeros(4)] * len(REQUESTS), REQUESTS, num_resamples=50)
    assert summary.metrics["hit_at_1"].value == 0.25
    assert summary.metrics["hit_at_1"].low == pytest.approx(0.25)
    assert summary.ranks == (Rank(1, 4),) * len(REQUESTS)


def test_a_request_without_a_target_is_refused() -> None:
    request = dataclasses.replace(REQUESTS[0], target=None)
    with pytest.raises(ValueError, match="request of u0 has no target"):
        baseline_summary([np.zeros(4)], [request])


@pytest.mark.parametrize(
    ("bounds", "tolerance", "excess"),
    [
        ((-0.004, 0.003), 0.005, None),
        ((-0.007, 0.003), 0.005, 0.002),
        ((-0.001, 0.006), 0.005, 0.001),
        ((-0.009, 0.006), 0.005, 0.004),
        ((0.0, 0.0), 0.0, None),
        ((-0.005, 0.005), 0.005, None),
    ],
)
def test_the_gate_names_arms_whose_interval_leaves_the_tolerance(summaries, bounds, tolerance, excess) -> None:
    difference = Estimate(0.0, *bounds)
    differences = summaries["same"].differences | {"ndcg_at_10": difference}
    same = dataclasses.replace(summaries["same"], differences=differences)
    found = gate_violations({"full": summaries["full"], "same": same}, tolerance)
    if excess is None:
        assert found == []
        return
    (violation,) = found
    assert (violation.arm, violation.reference, violation.difference) == ("same", "full", difference)
    assert violation.excess == pytest.approx(excess)
