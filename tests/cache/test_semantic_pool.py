import re

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rcjax.cache.semantic import InstanceFields, SemanticPool, TokenEmbedding

VOCAB, START = 12, 5
LAYERS, KV_HEADS, HEAD_DIM = 3, 2, 4
KEY = bytes(range(32))
TEXTS = [*(f" {letter}word" for letter in "abcdefgh"), " 7", "\n", " May", " ;"]
FIELDS = InstanceFields(lambda ids: TEXTS[ids[0]])
SPECIFIC = {8, 9, 10, 11}
EMBEDDING = TokenEmbedding.of(
    np.random.default_rng(0).standard_normal((VOCAB, 16)).astype(np.float32), max_position=64, num_dims=16
)
HISTORY = st.lists(st.integers(0, VOCAB - 1), max_size=30).map(lambda ids: np.array(ids, np.int32))


def exact_kv(token_ids: np.ndarray, dtype: type = np.float32) -> tuple[np.ndarray, np.ndarray]:
    """KV that depends on all tokens up to a position, as a causal decoder's does."""
    k, v = (np.empty((LAYERS, len(token_ids), KV_HEADS, HEAD_DIM), dtype) for _ in range(2))
    for t in range(len(token_ids)):
        rng = np.random.default_rng(token_ids[: t + 1] + 1)  # a seed ending in 0 equals one without
        k[:, t], v[:, t] = (rng.standard_normal((LAYERS, KV_HEADS, HEAD_DIM)) for _ in range(2))
    return k, v


def build(histories, kv_source=exact_kv, **changes) -> SemanticPool:
    arguments = {"instruction_key": KEY, "start": START} | changes
    return SemanticPool.build(histories, kv_source, EMBEDDING, FIELDS, **arguments)


def histories(num: int, seed: int = 0) -> list[np.ndarray]:
    rng = np.random.default_rng(seed)
    return [rng.integers(0, VOCAB, rng.integers(1, 25)).astype(np.int32) for _ in range(num)]


def some_pool(**changes) -> SemanticPool:
    return build(histories(20), **changes)


@settings(max_examples=50, deadline=None)
@given(st.lists(HISTORY, min_size=1, max_size=6), HISTORY, st.integers(1, 40), st.floats(0.2, 1))
def test_a_lookup_finds_the_nearest_prototype_of_the_same_token(sampled, asked, limit, min_similarity):
    if not any(token not in SPECIFIC for ids in sampled for token in ids):
        sampled = [*sampled, np.array([0], np.int32)]
    pool = build(sampled, max_prototypes=limit)
    match = pool.lookup(asked, min_similarity=min_similarity)
    # Oracle: compare with every prototype, whose whole embedding is found again through its KV.
    occurrences = {}
    for ids in sampled:
        k, _ = exact_kv(ids)
        vectors = EMBEDDING.vectors(ids, START)
        occurrences |= {k[:, t].tobytes(): vectors[t] for t in range(len(ids))}
    stored = np.stack([occurrences[k.tobytes()] for k in pool.prototypes.k])
    cosine = EMBEDDING.vectors(asked, START) @ stored.T
    cosine[asked[:, None] != pool.prototypes.token_ids] = 0
    best = cosine.max(axis=1)
    np.testing.assert_allclose(match.similarity, best, atol=1e-5)
    for t, token in enumerate(asked):
        prototype = match.prototypes[t]
        if token not in pool.prototypes.token_ids:
            assert prototype == -1
        else:
            assert cosine[t, prototype] == pytest.approx(best[t], abs=1e-5)
        if abs(best[t] - min_similarity) > 1e-4:
            assert match.taken[t] == (prototype >= 0 and best[t] > min_similarity and token not in SPECIFIC)
    np.testing.assert_array_equal(match.fresh_offsets, [t for t in range(len(asked)) if not match.taken[t]])


def test_the_least_similarity_is_where_it_is_said_to_be():
    """Each token is taken just below its own similarity, and not just above."""
    pool, asked = some_pool(max_prototypes=30), histories(3, seed=9)[1]
    found = pool.lookup(asked, min_similarity=0.0)
    assert len(set(found.similarity[found.taken].tolist())) > 5
    for t in np.flatnonzero(found.taken):
        own = float(found.similarity[t])
        assert pool.lookup(asked, min_similarity=own - 1e-4).taken[t]
        assert not pool.lookup(asked, min_similarity=own + 1e-4).taken[t]


@given(st.lists(HISTORY, min_size=1, max_size=8), st.integers(1, 40))
def test_no_more_prototypes_than_asked_for_and_none_that_is_instance_specific(sampled, limit):
    sampled = [*sampled, np.array([0], np.int32)]
    pool = build(sampled, max_prototypes=limit)
    shared = {int(token) for ids in sampled for token in ids} - SPECIFIC
    assert 1 <= pool.num_prototypes <= limit
    assert set(pool.prototypes.token_ids.tolist()) <= shared
    assert limit < len(shared) or set(pool.prototypes.token_ids.tolist()) == shared


PIECES = [" a", " b", "a", "b", "c", "7", " 9", "-", "\n", "é", "½", " c"]  # tokens that are parts of words
PARTS = InstanceFields(lambda ids: PIECES[ids[0]])


def pool_of_parts(sampled) -> SemanticPool:
    return SemanticPool.build(sampled, exact_kv, EMBEDDING, PARTS, instruction_key=KEY, start=START)


def lendable(token_ids) -> list[bool]:
    """Of each token, by the text as a whole: whether it has a letter, and its word no character that is a number."""
    texts = [PIECES[token] for token in token_ids]
    ends = np.cumsum([len(text) for text in texts])
    found = np.zeros(len(texts), bool)
    for word in re.finditer(r"\S+", "".join(texts)):
        for t, (text, end) in enumerate(zip(texts, ends, strict=True)):
            if end - len(text) < word.end() and end > word.start() and any(map(str.isalpha, text)):
                found[t] = not any(map(str.isnumeric, word.group()))
    return found.tolist()


@pytest.mark.parametrize(
    ("asked", "taken"), [([0, 1], [True, True]), ([0, 5], [False, False]), ([0, 1, 5, 0], [True, False, False, True])]
)
def test_a_letter_is_lent_alone_and_not_beside_a_digit(asked, taken):
    """Of "a7" neither token, though the pool has another user's plain "a": the letters of an id are the id's."""
    pool = pool_of_parts([np.array([0, 1], np.int32)])
    assert pool.lookup(np.array(asked, np.int32), min_similarity=-1.0).taken.tolist() == taken


@settings(max_examples=50)
@given(st.lists(HISTORY, min_size=1, max_size=3), HISTORY)
def test_no_token_of_a_word_with_a_digit_goes_into_the_pool_or_comes_out_of_it(sampled, asked):
    sampled = [*sampled, np.array([0, 3, 1], np.int32)]
    pool = pool_of_parts(sampled)
    known = {token for ids in sampled for token, may in zip(ids, lendable(ids), strict=True) if may}
    assert set(pool.prototypes.token_ids.tolist()) == known
    taken = pool.lookup(asked, min_similarity=-1.0).taken
    assert taken.tolist() == [token in known and may for token, may in zip(asked, lendable(asked), strict=True)]


def test_a_history_of_the_pool_gets_its_own_kv_byte_for_byte():
    """With room for every occurrence, each token is its own representative."""
    sampled = histories(4)
    pool = build(sampled, max_prototypes=1000)
    for ids in sampled:
        match = pool.lookup(ids, min_similarity=0.999)
        np.testing.assert_array_equal(match.taken, [token not in SPECIFIC for token in ids])
        for found, exact in zip(pool.kv(match.prototypes[match.taken]), exact_kv(ids), strict=True):
            np.testing.assert_array_equal(found, exact[:, match.taken])


def test_the_kv_is_computed_once_for_each_history_that_has_a_representative():
    asked = []

    def count(ids):
        asked.append(ids)
        return exact_kv(ids)

    useless = np.array([8, 9, 11], np.int32)
    twice = np.array([0, 1, 8, 2], np.int32)
    pool = build([useless, twice, twice], count)
    assert pool.num_prototypes == 3  # the second copy falls into the first one's clusters
    assert len(asked) == 1
    assert asked[0] is twice


def test_one_seed_makes_one_pool():
    one, same, other = some_pool(max_prototypes=30), some_pool(max_prototypes=30), some_pool(max_prototypes=30, seed=1)
    for name in ("token_ids", "surroundings", "k", "v"):
        np.testing.assert_array_equal(getattr(one.prototypes, name), getattr(same.prototypes, name))
    assert not np.array_equal(one.prototypes.surroundings, other.prototypes.surroundings)


def test_pages_hold_what_was_taken_and_zeros_elsewhere():
    pool = some_pool(max_prototypes=1000)
    ids = histories(20)[3]
    match = pool.lookup(ids, min_similarity=0.999)
    assert 0 < match.taken.sum() < len(ids)
    pages = pool.pages(match, page_tokens=4)
    k, v = pages.k, pages.v
    assert k.shape == v.shape == (LAYERS, -(-len(ids) // 4), 4, KV_HEADS, HEAD_DIM)
    for pages, exact in zip((k, v), exact_kv(ids), strict=True):
        for slot in range(pages.shape[1] * 4):
            taken = slot < len(ids) and match.taken[slot]
            expected = exact[:, slot] if taken else np.zeros_like(exact[:, 0])
            np.testing.assert_array_equal(pages[:, slot // 4, slot % 4], expected)


def test_a_history_without_tokens_or_without_matches():
    pool = build([np.array([0, 1], np.int32)])
    empty = pool.lookup(np.zeros(0, np.int32), min_similarity=0.9)
    assert len(empty.prototypes) == len(empty.taken) == len(empty.fresh_offsets) == 0
    assert pool.pages(empty, 4).k.shape == (LAYERS, 0, 4, KV_HEADS, HEAD_DIM)
    unknown = pool.lookup(np.array([5, 6], np.int32), min_similarity=0.0)
    assert unknown.prototypes.tolist() == [-1, -1]
    assert unknown.similarity.tolist() == [0, 0]
    assert not unknown.taken.any()
    assert not pool.pages(unknown, 4).k.any()


def test_what_cannot_be_built_or_read_is_refused():
    with pytest.raises(ValueError, match="max_prototypes=0"):
        some_pool(max_prototypes=0)
    with pytest.raises(ValueError, match="2 histories hold no token"):
        build([np.array([8], np.int32), np.zeros(0, np.int32)])
    with pytest.raises(ValueError, match="history of 2 tokens"):
        build([np.array([0, 1], np.int32)], lambda ids: exact_kv(ids[:1]))
    pool = build([np.array([0, 1], np.int32)])
    for bad in (-1, 2):
        with pytest.raises(ValueError, match="0 to 1"):
            pool.kv(np.array([0, bad]))


def test_num_bytes_counts_the_arrays():
    pool = some_pool(max_prototypes=30)
    num, num_dims = pool.num_prototypes, EMBEDDING.num_dims - 16
    kv = 2 * num * LAYERS * KV_HEADS * HEAD_DIM * 4
    assert pool.num_bytes == kv + num * 4 + 2 * num * num_dims * 4 + VOCAB * 16 * 4


@settings(max_examples=30, deadline=None)
@given(st.lists(HISTORY, min_size=1, max_size=6), HISTORY, st.sets(st.integers(0, 5)))
def test_without_some_histories_it_lends_what_the_others_gave_it(sampled, asked, gone):
    """Histories that begin alike have equal KV as far as they do, which only the one that gave it takes with it."""
    if not any(token not in SPECIFIC for ids in sampled for token in ids):
        sampled = [*sampled, np.array([0], np.int32)]
    pool = build(sampled)
    left = pool.without(gone)
    given = [{exact_kv(ids)[0][:, t].tobytes() for t in range(len(ids))} for ids in sampled]
    for k, history in zip(pool.prototypes.k, pool.prototypes.histories, strict=True):
        assert k.tobytes() in given[history]
    stay = [k.tobytes() for k, i in zip(pool.prototypes.k, pool.prototypes.histories, strict=True) if i not in gone]
    assert [k.tobytes() for k in left.prototypes.k] == stay
    match = left.lookup(asked, min_similarity=0.5)
    k, _ = left.kv(match.prototypes[match.taken])
    assert {k[:, t].tobytes() for t in range(k.shape[1])} <= set(stay)
    assert not (match.taken & ~np.isin(asked, left.prototypes.token_ids)).any()
