import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rcjax.cache.semantic import TokenEmbedding
from rcjax.cache.semantic.embedding import CONTEXT_DECAY, CONTEXT_TOKENS

VOCAB = 30
TABLE = np.random.default_rng(0).standard_normal((VOCAB, 24)).astype(np.float32)
HISTORIES = st.lists(st.integers(0, VOCAB - 1), min_size=1, max_size=40).map(lambda ids: np.array(ids, np.int32))


def embedding(**changes) -> TokenEmbedding:
    return TokenEmbedding.of(TABLE, **{"max_position": 100, "num_dims": 24} | changes)


def expected_cosine(ids, i, other, j, apart, position_weight, context_weight) -> float:
    """The cosine as the docstring defines it, one token at a time; their positions are so far apart."""
    unit = TABLE / np.linalg.norm(TABLE, axis=1, keepdims=True)
    t = unit - unit.mean(0)
    t /= np.linalg.norm(t, axis=1, keepdims=True)

    def context(tokens, at):
        instruction = np.ones(24) / np.sqrt(24)
        total = sum(
            CONTEXT_DECAY ** (back - 1) * (t[tokens[at - back]] if at >= back else instruction)
            for back in range(1, CONTEXT_TOKENS + 1)
        )
        return total / np.linalg.norm(total)

    token = (1 - position_weight - context_weight) * (t[ids[i]] @ t[other[j]])
    position = position_weight * np.cos(np.pi / 2 * apart / 100)
    return token + position + context_weight * (context(ids, i) @ context(other, j))


@given(HISTORIES, HISTORIES, st.sampled_from([(0.25, 0.25), (0.5, 0.0), (0.0, 0.3), (0.0, 0.0)]), st.data())
def test_the_cosine_of_two_tokens_is_the_weighted_mean_of_three_cosines(ids, other, weights, data):
    position_weight, context_weight = weights
    embed = embedding(position_weight=position_weight, context_weight=context_weight)
    i, j = data.draw(st.integers(0, len(ids) - 1)), data.draw(st.integers(0, len(other) - 1))
    start = data.draw(st.integers(0, 40))
    cosine = embed.vectors(ids, 7)[i] @ embed.vectors(other, start)[j]
    expected = expected_cosine(ids, i, other, j, 7 + i - start - j, position_weight, context_weight)
    assert cosine == pytest.approx(expected, abs=1e-5)


@given(HISTORIES)
def test_embeddings_have_length_one(ids):
    for embed in (embedding(), embedding(context_weight=0.0), embedding(num_dims=8)):
        vectors = embed.vectors(ids, 3)
        assert vectors.shape == (len(ids), embed.num_dims)
        np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-5)


def test_a_token_is_less_like_itself_the_farther_away_it_stands():
    vectors = embedding(context_weight=0.0).vectors(np.zeros(100, np.int32), 0)
    cosines = vectors @ vectors[0]
    assert (np.diff(cosines) < 0).all()
    assert cosines[10] > 0.99


def test_only_the_first_columns_tell_equal_tokens_from_others():
    embed = embedding(num_dims=8)
    ids = np.array([3, 3, 5], np.int32)
    vectors = embed.vectors(ids, 4)
    np.testing.assert_array_equal(vectors[:, 8:], embed.surroundings(ids, 4))
    np.testing.assert_array_equal(vectors[0, :8], vectors[1, :8])
    assert np.abs(vectors[0, :8] - vectors[2, :8]).max() > 0.01


def test_a_projection_keeps_cosines_about_and_is_a_function_of_the_seed():
    table = np.random.default_rng(1).standard_normal((200, 400)).astype(np.float32)
    full, some, same, other = (
        TokenEmbedding.of(table, max_position=10, num_dims=num_dims, seed=seed).tokens
        for num_dims, seed in ((400, 0), (100, 0), (100, 0), (100, 1))
    )
    off = (some @ some.T - full @ full.T)[~np.eye(200, dtype=bool)]
    assert 0.5 / np.sqrt(100) < off.std() < 1.5 / np.sqrt(100)
    np.testing.assert_array_equal(some, same)
    assert not np.allclose(some, other)


def test_a_token_outside_the_vocabulary_is_refused():
    for bad in (-1, VOCAB):
        with pytest.raises(ValueError, match=f"vocabulary of {VOCAB}"):
            embedding().vectors(np.array([0, bad], np.int32), 0)


@pytest.mark.parametrize(
    "changes", [{"position_weight": -0.1}, {"context_weight": -0.1}, {"position_weight": 0.6, "context_weight": 0.5}]
)
def test_weights_that_are_no_weights_are_refused(changes):
    with pytest.raises(ValueError, match="weight"):
        embedding(**changes)


def test_a_history_needs_positions():
    with pytest.raises(ValueError, match="max_position=0"):
        embedding(max_position=0)
