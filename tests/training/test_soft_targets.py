"""Distillation: what a teacher says is kept, shown in every order, and learnt."""

import json
import time
from itertools import permutations

import numpy as np
import pytest

from rcjax.catalog import Catalogue, Event, Item, Request, User
from rcjax.config import TeacherSettings, TrainSettings
from rcjax.training.examples import Example, bucket_rng
from rcjax.training.requests import RequestExamples, request_examples
from rcjax.training.soft_targets import scored_buckets, self_agreement, with_soft_targets
from rcjax.training.teacher import shares_of
from rcjax.training.teacher_scores import TeacherScores, scoring_s
from rcjax.training.validation import Validation, validation_of

SIZE = 6


class PlaceLover:
    """A teacher by hand: a candidate's score is its number, and 2 more in the first place of the prompt."""

    def __init__(self):
        self.num_scored = 0

    def scores(self, examples, orders):
        self.num_scored += len(examples)
        found = []
        for example, order in zip(examples, orders, strict=True):
            scores = np.array([float(item.item_id) for item in example.candidates], np.float32)
            scores[order[0]] += 2
            found.append(scores)
        return found


class Drawn:
    """Requests of four candidates, of which the second is chosen."""

    def bucket(self, number, num_examples, rng):
        return [
            Example(
                (Event("h", f"bucket {number}, {n}"),),
                tuple(Item(str(i), f"no. {i}") for i in rng.permutation(4)),
                (1,),
            )
            for n in range(num_examples)
        ]


def teacher_scores(folder, teacher, **changes):
    return TeacherScores(folder, {"model": "m", **changes}, lambda: teacher, batch_size=4, seed=7)


def buckets(folder, teacher=None, num_buckets=3, num_orders=1, label_share=0.0):
    return scored_buckets(
        teacher_scores(folder, teacher),
        Drawn(),
        num_buckets=num_buckets,
        bucket_size=SIZE,
        num_orders=num_orders,
        label_share=label_share,
        seed=7,
    )


def test_scores_are_kept_and_what_is_missing_is_scored(tmp_path):
    teacher = PlaceLover()
    first = buckets(tmp_path, teacher, num_buckets=2)
    assert teacher.num_scored == 2 * 8, "each bucket of six in batches of four: the second is filled up"
    (tmp_path / "bucket-00001.npz").unlink()
    again = PlaceLover()
    second = buckets(tmp_path, again, num_buckets=2)
    assert again.num_scored == 8
    for ours, theirs in zip(first.scores, second.scores, strict=True):
        np.testing.assert_array_equal(ours, theirs)
    assert buckets(tmp_path, teacher=None, num_buckets=2).scores[0].shape == (1, SIZE, 4)


def test_a_damaged_file_is_told_of_and_made_anew(tmp_path, caplog):
    first = buckets(tmp_path, PlaceLover(), num_buckets=1)
    path = tmp_path / "bucket-00000.npz"
    path.write_bytes(path.read_bytes()[:100])
    second = buckets(tmp_path, PlaceLover(), num_buckets=1)
    assert "bucket-00000.npz cannot be read" in caplog.text
    np.testing.assert_array_equal(first.scores[0], second.scores[0])


def test_scores_of_another_teacher_or_of_other_requests_are_refused(tmp_path):
    buckets(tmp_path, PlaceLover(), num_buckets=1)
    with pytest.raises(ValueError, match=r"holds the scores of another teacher.*train\.teacher\.scores"):
        teacher_scores(tmp_path, None, dtype="bfloat16")
    other = [Example(e.history, e.candidates[::-1]) for e in Drawn().bucket(0, SIZE, bucket_rng(7, 0))]
    with pytest.raises(ValueError, match=r"bucket-00000\.npz has the scores of other requests"):
        teacher_scores(tmp_path, None).of("bucket-00000", other, 1)


def test_scores_that_are_no_numbers_end_the_run(tmp_path):
    teacher = PlaceLover()
    teacher.scores = lambda examples, orders: [np.array([1, np.nan, 2, 3], np.float32)] * len(examples)
    with pytest.raises(FloatingPointError, match="teacher's scores of bucket-00000 are not finite"):
        buckets(tmp_path, teacher, num_buckets=1)


def test_a_second_order_is_another_one(tmp_path):
    """Of two candidates there are only two: half of the drawn ones would be the first again."""
    orders = []

    class Noting(PlaceLover):
        def scores(self, examples, of_batch):
            orders.append([tuple(order.tolist()) for order in of_batch])
            return super().scores(examples, of_batch)

    pairs = [Example((Event("h", str(n)),), (Item("0", "x"), Item("1", "x"))) for n in range(4)]
    single = [Example((), (Item("0", "x"),))] * 4
    teacher_scores(tmp_path, Noting()).of("pairs", pairs, 2)
    assert all(one != other for one, other in zip(*orders, strict=True))
    assert teacher_scores(tmp_path, Noting()).of("single", single, 2).shape == (2, 4, 1)


def test_the_time_that_scoring_took_is_kept(tmp_path):
    before_s = time.perf_counter()
    buckets(tmp_path, PlaceLover(), num_buckets=2)
    assert 0 < scoring_s(tmp_path) <= time.perf_counter() - before_s


def test_a_mean_over_all_orders_knows_no_place():
    """Of the place-lover: the same for a request in any order, once every candidate stood first equally often."""
    example = Drawn().bucket(0, 1, bucket_rng(0, 0))[0]
    orders = [np.array(order) for order in permutations(range(4))]
    scores = np.stack([PlaceLover().scores([example], [order])[0] for order in orders])
    number = np.array([int(item.item_id) for item in example.candidates])
    firsts = [np.exp(number + 2 * (np.arange(4) == first)) for first in range(4)]
    expected = np.mean([of_one / of_one.sum() for of_one in firsts], axis=0)
    np.testing.assert_allclose(shares_of(scores), expected, rtol=1e-6)


def test_every_bucket_is_seen_once_an_epoch_and_its_candidates_in_other_orders(tmp_path):
    source = buckets(tmp_path, PlaceLover())
    seen = [source.bucket(n, SIZE, bucket_rng(7, n)) for n in range(6)]
    names = [of_bucket[0].history[0].title for of_bucket in seen]
    assert set(names[:3]) == set(names[3:]) == {f"bucket {n}, 0" for n in range(3)}
    orders = {tuple(item.item_id for item in of_bucket[0].candidates) for of_bucket in seen}
    assert len(orders) > 3
    for examples in seen:
        for example in examples:
            best = int(np.argmax(example.soft_targets))
            shares = {item.item_id: share for item, share in zip(example.candidates, example.soft_targets, strict=True)}
            assert shares["0"] < shares["3"], "a share goes with its candidate, wherever that stands"
            assert sum(example.soft_targets) == pytest.approx(1)
            assert example.candidates[best].item_id in "123"
    assert seen[0] == source.bucket(0, SIZE, bucket_rng(7, 0)), "the same whenever it is asked for"


def test_buckets_of_another_size_are_refused(tmp_path):
    with pytest.raises(ValueError, match="buckets of 6 examples were scored, not of 8"):
        buckets(tmp_path, PlaceLover()).bucket(0, 8, bucket_rng(7, 0))


def test_labels_take_their_share_where_they_are_known():
    examples = [Example((), tuple(Item(str(i), "x") for i in range(2)), choices) for choices in ((1,), ())]
    scores = np.log(np.array([[[0.8, 0.2], [0.8, 0.2]]], np.float32))
    mixed, unknown = with_soft_targets(examples, scores, 0.25)
    assert mixed.soft_targets == pytest.approx((0.6, 0.4))
    assert unknown.soft_targets == pytest.approx((0.8, 0.2))


def test_the_teachers_agreement_with_itself_is_over_orders():
    examples = [Example((), tuple(Item(str(i), "x") for i in range(n))) for n in (3, 2)]
    scores = np.full((3, 2, 3), np.nan, np.float32)
    scores[:, 0] = [[3, 2, 1], [3, 1, 2], [1, 3, 2]]
    scores[:, 1, :2] = [[1, 0], [1, 0], [2, 1]]
    found = self_agreement(examples, scores)
    assert found.num_requests == 4
    assert found.top1_agreement == 0.75


def test_buckets_are_as_the_teacher_scored_them_with_fewer_candidates_too(tmp_path):
    examples = tuple(
        Example((Event("h", f"{n}"),), tuple(Item(str(i), "x") for i in range(2 + n % 3))) for n in range(5)
    )
    source = scored_buckets(
        teacher_scores(tmp_path, PlaceLover()),
        RequestExamples(examples),
        num_buckets=2,
        bucket_size=3,
        num_orders=2,
        label_share=0.0,
        seed=7,
    )
    shown = [e for n in range(2) for e in source.bucket(n, 3, bucket_rng(7, n))]
    assert sorted(len(e.soft_targets) for e in shown) == sorted(len(e.candidates) for e in shown)
    assert {e.history for e in shown} == {e.history for e in examples}


# ---- requests


CATALOGUE = Catalogue(
    {f"i{n}": Item(f"i{n}", f"item {n}") for n in range(9)},
    {"u": User("u", tuple(Event(f"i{n}", f"item {n}") for n in range(5)))},
)


def made(*requests, max_candidates=4, max_events=2):
    told = []
    found = request_examples(
        requests, CATALOGUE, max_candidates=max_candidates, max_events=max_events, seed=0, tell=told.append
    )
    return found, told


def ids(example):
    return [item.item_id for item in example.candidates]


def test_a_request_is_an_example_without_its_answer_in_the_history():
    ((example,), told) = made(Request("u", ("i7", "i3"), "i3"))
    assert [event.item_id for event in example.history] == ["i1", "i2"]
    assert (ids(example), example.choices, told) == (["i7", "i3"], (1,), [])
    ((example,), _) = made(Request("u", ("i7", "i8")))
    assert [event.item_id for event in example.history] == ["i3", "i4"]
    assert example.choices == ()


def test_of_many_candidates_a_part_is_taken_with_what_was_chosen():
    everything = tuple(f"i{n}" for n in range(9))
    found, _ = made(*[Request("u", everything, "i8")] * 20)
    assert all(
        len(example.candidates) == 4 and example.candidates[example.choices[0]].item_id == "i8" for example in found
    )
    assert len({tuple(ids(example)) for example in found}) > 5
    assert all(ids(example) == sorted(ids(example)) for example in found), "in the order of the request"


def test_requests_of_a_user_stay_together_where_a_pass_is_to_share_their_history():
    users = {name: User(name, (Event("i0", name),)) for name in "uvw"}
    catalogue = Catalogue(CATALOGUE.items, users)
    asked = [Request(name, ("i1", "i2")) for _ in range(4) for name in "uvw"]
    shared = {"max_candidates": 4, "max_events": 9, "seed": 0, "tell": print}
    found = request_examples(asked, catalogue, requests_per_user=2, **shared)
    names = [example.history[0].title for example in found]
    assert names[::2] == names[1::2]
    assert sorted(names) == sorted("uvw" * 4)
    assert names != sorted(names)


def test_the_history_ends_at_the_last_event_with_what_was_chosen():
    users = {"u": User("u", tuple(Event(i, i) for i in ("i0", "i1", "i2", "i0")))}
    (example,) = request_examples(
        [Request("u", ("i0", "i3"), "i0")],
        Catalogue(CATALOGUE.items, users),
        max_candidates=4,
        max_events=9,
        seed=0,
        tell=print,
    )
    assert [event.item_id for event in example.history] == ["i0", "i1", "i2"]


def test_that_candidates_are_cut_is_told():
    _, told = made(Request("u", ("i1", "i2", "i3", "i4", "i5")))
    assert told == ["1 of 1 requests have more than train.num_candidates=4; a random part of these is taken"]


def test_what_is_left_out_is_told():
    found, told = made(
        Request("u", ("i1", "gone", "i2")),
        Request("ghost", ("i1", "i2")),
        Request("", ("i1", "i2")),
        Request("u", ("i1",)),
    )
    assert [ids(example) for example in found] == [["i1", "i2"]]
    assert sorted(told) == [
        "1 of 4 requests have fewer than two candidates that the catalogue has, and are left out",
        "1 of 4 requests name items that the catalogue lacks; these are left out",
        "2 of 4 requests are of users that the catalogue lacks, and are left out",
    ]


# ---- validation and settings


def test_validation_tells_what_can_be_told():
    items = tuple(Item(str(i), "x") for i in range(2))
    scores = [np.array([2.0, 0.0]), np.array([0.0, 1.0])]
    chosen = [Example((), items, (0,)), Example((), items, (0,))]
    assert validation_of(chosen, scores) == Validation((1 + 1 / np.log2(3)) / 2)
    told = validation_of(
        [Example((), items, soft_targets=(0.5, 0.5)), Example((), items, soft_targets=(0.0, 1.0))], scores
    )
    assert told.ndcg_at_10 is None
    assert told.top1_agreement == 1.0  # of the first, which is tied, the earlier one is the best
    q = np.exp(scores[0]) / np.exp(scores[0]).sum()
    second = -np.log(np.exp(1) / (1 + np.exp(1)))
    assert told.kl_nats == pytest.approx(((0.5 * np.log(0.5 / q)).sum() + second) / 2, rel=1e-6)
    assert str(told).startswith("KL 0.")


def test_a_teacher_and_another_loss_are_refused():
    with pytest.raises(ValueError, match="loss='ranknet' takes no teacher"):
        TrainSettings(loss="ranknet", teacher=TeacherSettings())
    with pytest.raises(ValueError, match=r"in layout=parallel every block is exact"):
        TrainSettings(selection="none")
    with pytest.raises(ValueError, match=r"selection='query\(r=0.1\)' needs a probe"):
        TrainSettings(layout="sequential", selection="query(r=0.1)")
    assert json.loads(TrainSettings(layout="sequential", selection="none").model_dump_json())["selection"] == "none"
