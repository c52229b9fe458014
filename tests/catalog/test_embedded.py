"""The embedded shop: the same for a seed, like a shop in its counts, and honest about its ceiling."""

import dataclasses
import hashlib
import json
from collections import Counter
from itertools import pairwise

import numpy as np
import pytest

from rcjax.catalog import Catalogue, EmbeddedWorld, Request, embedded_catalogue, shop, shop_words
from rcjax.catalog.draws import Draws
from rcjax.catalog.shop_departments import DEPARTMENTS
from rcjax.evaluation.bayes import bayes_optimal

PINNED_SHA256 = "d4d95990eb2ccfd6c826f5af0f6f59582bf5ba62814f85f4e1d5fb2b232a3593"
TOKENS_PER_WORD = 1.4  # SmolLM2's tokenizer on these texts


@pytest.fixture(scope="module")
def world() -> EmbeddedWorld:
    return EmbeddedWorld(0)


@pytest.fixture(scope="module")
def catalogue() -> Catalogue:
    return embedded_catalogue()


@pytest.fixture(scope="module")
def validation(world: EmbeddedWorld) -> list[Request]:
    return list(world.requests(400, split="validation"))


def digest(catalogue: Catalogue) -> str:
    return hashlib.sha256(json.dumps(dataclasses.asdict(catalogue)).encode()).hexdigest()


def test_the_default_catalogue_is_pinned(catalogue: Catalogue) -> None:
    assert digest(catalogue) == PINNED_SHA256
    assert digest(embedded_catalogue(seed=1)) != digest(catalogue)
    assert (len(catalogue.items), len(catalogue.users), len(catalogue.requests)) == (240, 48, 64)


def test_text_lengths_are_those_of_product_texts(catalogue: Catalogue) -> None:
    num_words = [len(f"{item.title} {item.description}".split()) for item in catalogue.items.values()]
    num_tokens = TOKENS_PER_WORD * np.array(num_words)
    assert num_tokens.min() >= 20
    assert num_tokens.max() <= 150
    assert 58 <= num_tokens.mean() <= 68
    assert num_tokens.std() > 15


def test_history_lengths(catalogue: Catalogue) -> None:
    num_words = [sum(len(f"{e.title} {e.text}".split()) for e in u.events) for u in catalogue.users.values()]
    assert 180 <= TOKENS_PER_WORD * np.mean(num_words) <= 320
    assert all(6 <= len(user.events) <= 15 for user in catalogue.users.values())


def test_titles_are_distinct_and_name_all_that_tastes_attach_to(world: EmbeddedWorld) -> None:
    assert len({item.title for item in world.items.values()}) == len(world.items)
    for product in world.products:
        for value in product.values[1:]:
            assert value in product.item.title
        assert product.kind in product.item.title
    # and the kind tells the department
    nouns = [kind.noun for department in DEPARTMENTS for kind in department.kinds]
    assert len(set(nouns)) == len(nouns) == 60
    named = {name for department in DEPARTMENTS for name in department.related}
    assert named <= set(shop.ASPECT_VALUES["department"])


def test_reviews_tell_their_rating_and_aspect(world: EmbeddedWorld) -> None:
    openings = [opening for texts in shop_words.OPENINGS.values() for opening in texts]
    assert not any(a != b and b.startswith(a) for a in openings for b in openings)
    product = world.products[0]
    said = {
        (rating, mention): {shop.review(Draws(n), product, rating, mention) for n in range(60)}
        for rating in shop_words.OPENINGS
        for mention in range(len(shop.ASPECT_VALUES))
    }
    texts = [text for group in said.values() for text in group]
    assert len(texts) == len(set(texts))  # no text has two readings


def test_events_are_in_time_order_about_known_items(catalogue: Catalogue) -> None:
    for user in catalogue.users.values():
        times = [event.timestamp_s or 0 for event in user.events]
        assert times == sorted(times)
        assert len({event.item_id for event in user.events}) == len(user.events)
        assert all(catalogue.items[event.item_id].title == event.title for event in user.events)


def test_requests_have_distinct_candidates_outside_the_history(catalogue: Catalogue) -> None:
    for request in catalogue.requests:
        history = {event.item_id for event in catalogue.users[request.user_id].events}
        assert len(set(request.candidates)) == 20
        assert request.target in request.candidates
        assert not history & set(request.candidates)
        assert set(request.candidates) <= set(catalogue.items)


def test_popularity_is_zipf_and_shows_in_histories(world: EmbeddedWorld) -> None:
    falling = np.sort(world.tastes.popularity)[::-1]
    slope = np.polyfit(np.log(np.arange(1, 241)), np.log(falling), 1)[0]
    assert slope == pytest.approx(-0.8)
    users = (world.user(f"train-{n:05d}") for n in range(400))
    counts = Counter(event.item_id for user in users for event in user.events)
    falling_counts = sorted(counts.values(), reverse=True)
    share_of_top_tenth = sum(falling_counts[:24]) / sum(falling_counts)
    assert 0.3 <= share_of_top_tenth <= 0.5  # real shops have about 0.4


def test_candidates_of_a_session_occur_together(world: EmbeddedWorld) -> None:
    """Two candidates share a department more often than two candidates of different requests."""
    department = {product.item.item_id: product.department for product in world.products}
    requests = [[department[c] for c in r.candidates] for r in world.requests(300, split="train")]
    together = np.mean([a == b for r in requests for n, a in enumerate(r) for b in r[:n]])
    apart = np.mean([a == b for r, other in pairwise(requests) for a in r for b in other])
    assert together > 1.25 * apart


def test_splits_and_streams(world: EmbeddedWorld) -> None:
    short = list(world.requests(3, split="train", num_users=2))
    longer = list(world.requests(5, split="train", num_users=2))
    assert longer[:3] == short
    assert [r.user_id for r in longer] == ["train-00000", "train-00001"] * 2 + ["train-00000"]
    assert longer[0].candidates != longer[2].candidates
    assert EmbeddedWorld(0).user("train-00001") == world.user("train-00001")
    events = {split: world.user(f"{split}-00001").events for split in ("train", "validation", "test")}
    assert len(set(events.values())) == 3


def test_the_ceiling_is_calibrated_and_far_from_chance(world: EmbeddedWorld, validation: list[Request]) -> None:
    """What the posterior promises is what the drawn targets give, within four standard errors."""
    report = bayes_optimal(world, validation)
    standard_error = 0.5 / np.sqrt(len(validation))  # at most: the metrics lie between 0 and 1
    assert report.realised.ndcg_at_10 == pytest.approx(report.bayes.ndcg_at_10, abs=4 * standard_error)
    assert report.realised.mrr == pytest.approx(report.bayes.mrr, abs=4 * standard_error)
    assert 0.6 <= report.bayes.ndcg_at_10 <= 0.8
    assert report.bayes.ndcg_at_10 < report.oracle.ndcg_at_10  # a history does not tell everything
    assert report.chance.ndcg_at_10 == pytest.approx(0.227, abs=5e-4)


def test_each_score_is_as_often_right_as_it_says(world: EmbeddedWorld, validation: list[Request]) -> None:
    requests = validation[:300]
    scores = np.concatenate([world.optimal_scores(request) for request in requests])
    chosen = np.concatenate([[c == request.target for c in request.candidates] for request in requests])
    for low, high in ((0.0, 0.05), (0.05, 0.2), (0.2, 0.5), (0.5, 1.0)):
        inside = (scores >= low) & (scores < high)
        deviation = np.sqrt(np.sum(scores[inside] * (1 - scores[inside])))
        assert abs(chosen[inside].sum() - scores[inside].sum()) <= 4 * deviation


def test_words_in_common_with_the_history_help(world: EmbeddedWorld, validation: list[Request]) -> None:
    """Tastes show in the text: a ranker that counts shared words is far above chance, and below the ceiling."""
    requests = validation[:150]
    places = []
    for request in requests:
        history = Counter(word for e in world.user(request.user_id).events for word in words_of(e.title))
        overlap = {c: sum(history[word] for word in words_of(world.items[c].title)) for c in request.candidates}
        places.append(sorted(overlap, key=overlap.__getitem__, reverse=True).index(str(request.target)) + 1)
    ndcg = np.mean([1 / np.log2(1 + place) if place <= 10 else 0.0 for place in places])
    assert 0.33 < ndcg < bayes_optimal(world, requests).bayes.ndcg_at_10 - 0.1


def words_of(title: str) -> set[str]:
    return {word.strip("(),") for word in title.split()} - {"for", "in", "by"}


def test_bad_arguments_are_named(world: EmbeddedWorld) -> None:
    with pytest.raises(ValueError, match="num_items=15"):
        EmbeddedWorld(0, num_items=15)
    with pytest.raises(ValueError, match="num_candidates=226 exceeds 225"):
        list(world.requests(1, split="test", num_candidates=226))
    for user_id in ("test-7", "nobody", "test-0000x", "00007"):
        with pytest.raises(KeyError, match="is not a user of this world"):
            world.user(user_id)
    with pytest.raises(ValueError, match="test-00000 has no target"):
        bayes_optimal(world, [Request("test-00000", ("item-00000",))])
