"""What is asked of the engine, and that scores come back in the request's own order."""

import numpy as np
import pytest
from scripted_engine import ScriptedEngine, number, numbered

from rcjax.errors import InvalidRequestError, RcjaxError
from rcjax.evaluation.runner import Outcome, run_arms


def by_number(request):
    return [float(number(item_id)) for item_id in request.candidates]


def by_place(request):
    return [float(-place) for place in range(len(request.candidates))]


def refuse_some(request):
    return None if request.user_id in ("u1", "u4") else by_number(request)


def test_scores_are_in_the_requests_own_order_whatever_order_was_sent() -> None:
    catalogue, engine = numbered(), ScriptedEngine({"number": by_number, "place": by_place})
    runs = run_arms(engine, catalogue, ["number", "place"], num_permutations=2)
    for order in runs["number"].orders:
        for outcome, request in zip(order, catalogue.requests, strict=True):
            assert outcome.scores.tolist() == [number(item_id) for item_id in request.candidates]
    own, *others = runs["place"].orders
    assert all(outcome.scores.tolist() == [0.0, -1.0, -2.0, -3.0] for outcome in own)
    assert any(outcome.scores.tolist() != [0.0, -1.0, -2.0, -3.0] for order in others for outcome in order)


def test_every_arm_sees_the_same_orders_and_each_request_another() -> None:
    catalogue, engine = numbered(), ScriptedEngine({"a": by_place, "b": by_place})
    runs = run_arms(engine, catalogue, ["a", "b"], num_permutations=3, seed=5)
    found = {arm: [[o.scores.tolist() for o in order] for order in run.orders] for arm, run in runs.items()}
    assert found["a"] == found["b"]
    shuffled = [tuple(scores) for order in found["a"][1:] for scores in order]
    assert len(set(shuffled)) > 6
    again = run_arms(engine, catalogue, ["a"], num_permutations=3, seed=5)["a"]
    assert [[o.scores.tolist() for o in order] for order in again.orders] == found["a"]


def test_requests_go_in_batches_arms_take_turns_and_users_are_forgotten() -> None:
    catalogue, engine = numbered(), ScriptedEngine({"a": by_number, "b": by_number})
    ticks = []
    run_arms(engine, catalogue, ["a", "b"], batch=4, advance=lambda: ticks.append(None))
    asked = [(batch[0].arm, [request.user_id for request in batch]) for batch in engine.batches]
    first, second = ["u0", "u1", "u2", "u3"], ["u4", "u5"]
    assert asked == [("a", first), ("b", first), ("b", second), ("a", second)]
    assert engine.users == set()
    assert len(ticks) == 12


def test_what_is_refused_is_kept_in_its_place() -> None:
    engine = ScriptedEngine({"some": refuse_some})
    run = run_arms(engine, numbered(), ["some"])["some"]
    assert [isinstance(outcome, RcjaxError) for outcome in run.outcomes] == [False, True, False, False, True, False]
    assert len(run.answers) == 4
    assert len(run.errors) == 2
    assert all(isinstance(answer, Outcome) and answer.ttft_ms == 7.0 for answer in run.answers)
    assert {answer.tokens.prompt_len for answer in run.answers} == {16}


@pytest.mark.parametrize("num_users", [3, 40])
def test_an_arm_that_answers_nothing_ends_it_early(num_users: int) -> None:
    engine = ScriptedEngine({"good": by_number, "bad": lambda request: None})
    with pytest.raises(InvalidRequestError, match=r"arm 'bad' answered none of \d+ requests: refused"):
        run_arms(engine, numbered(num_users), ["good", "bad"])
    assert len(engine.batches) <= 2 * 5


def test_scores_are_plain_arrays() -> None:
    (outcome, *_) = run_arms(ScriptedEngine({"a": by_number}), numbered(), ["a"])["a"].outcomes
    assert outcome.scores.dtype == np.float64


def test_unseen_arms_bring_the_history_along() -> None:
    catalogue, engine = numbered(), ScriptedEngine({"a": by_number, "b": by_number})
    runs = run_arms(engine, catalogue, ["a", "b"], unseen=["b"], num_permutations=1)
    assert not runs["b"].errors
    asked = [(request.arm, request.user_id, request.history) for batch in engine.batches for request in batch]
    assert {(user, history) for arm, user, history in asked if arm == "a"} == {(u, None) for u in catalogue.users}
    histories = {("", user.events) for user in catalogue.users.values()}
    assert {(user, history) for arm, user, history in asked if arm == "b"} == histories
