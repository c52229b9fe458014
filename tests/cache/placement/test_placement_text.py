"""Text similarity against a dense TF-IDF."""

import re

import numpy as np
import pytest

from rcjax.cache.placement import similar_items
from rcjax.cache.placement.method import silent

TEXTS = [
    "Red clay mug",
    "Blue clay mug!",
    "red wool SCARF",
    "blue wool scarf, warm",
    "garden rake",
    "Red, red clay scarf (warm)",
]


def dense(texts: list[str], num_neighbours: int) -> np.ndarray:
    words = [set(re.findall(r"\w+", text.lower())) for text in texts]
    vocabulary = sorted(set().union(*words))
    has = np.array([[word in text for word in vocabulary] for text in words], float)
    idf = np.log(len(texts) / has.sum(axis=0)) * (has.sum(axis=0) > 1)
    rows = has * idf
    norms = np.linalg.norm(rows, axis=1, keepdims=True)
    cosines = np.divide(rows, norms, where=norms > 0, out=np.zeros_like(rows))
    cosines = cosines @ cosines.T
    np.fill_diagonal(cosines, 0)
    for row in cosines:
        row[np.argsort(-row, kind="stable")[num_neighbours:]] = 0
    sums = cosines.sum(axis=1, keepdims=True)
    return np.divide(cosines, sums, where=sums > 0, out=np.zeros_like(cosines))


@pytest.mark.parametrize("num_neighbours", [1, 2, 10])
def test_neighbours_are_those_of_dense_tf_idf(num_neighbours):
    found = similar_items(TEXTS, silent, num_neighbours)
    # of two that are as similar, either may be the last
    rows, expected = np.sort(found.toarray(), axis=1), np.sort(dense(TEXTS, num_neighbours), axis=1)
    np.testing.assert_allclose(rows, expected, atol=1e-6)
    if num_neighbours == 10:
        np.testing.assert_allclose(found.toarray(), dense(TEXTS, num_neighbours), atol=1e-6)


def test_a_text_that_shares_nothing_has_no_neighbour():
    assert similar_items(TEXTS, silent).toarray()[4].sum() == 0


@pytest.mark.parametrize("texts", [[], [""], ["", ""], ["one"]])
def test_few_or_empty_texts(texts):
    assert similar_items(texts, silent).toarray().tolist() == [[0.0] * len(texts)] * len(texts)
