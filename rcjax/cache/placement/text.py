"""Text similarity, for items that no request has named together yet: TF-IDF and the nearest texts by cosine.

A page of sparse algebra instead of scikit-learn, which would add a large dependency for one function.
"""

import itertools
import re
from collections.abc import Iterable

import numpy as np
import scipy.sparse as sp

from rcjax.cache.placement.method import ProgressSink

NUM_NEIGHBOURS = 10
_MAX_TERMS = 24  # of an item: its rarest say what it is
_PRODUCTS_AN_ITEM = 2000  # multiplications of the search; terms that would cost more are too common to tell much
_BLOCK_PRODUCTS = 2e7  # of a block of rows, which bounds memory
_WORD = re.compile(r"\w+")


def similar_items(texts: Iterable[str], progress: ProgressSink, num_neighbours: int = NUM_NEIGHBOURS) -> sp.csr_array:
    """[N, N] float32: in each row the `num_neighbours` items of the most similar texts, scaled to a sum of 1.

    A term's weight is log(N / number of texts that have it), once a text; terms of one text only are left out, as are
    the most common ones where the catalogue is so large that comparing by them would take hours. An item that shares
    no term has an empty row.
    """
    progress("reading texts", 0.0)
    terms = _term_weights(texts)
    by_term = terms.T.tocsr()
    blocks = _blocks(terms, by_term)
    found = []
    for first, last in blocks:
        progress("comparing texts", first / max(terms.shape[0], 1))
        found.append(_nearest(terms[first:last] @ by_term, first, num_neighbours))
    nearest = sp.vstack(found, format="csr") if found else sp.csr_array(terms.shape, dtype=np.float32)
    sums = np.asarray(nearest.sum(axis=1)).reshape(-1)
    nearest.data /= np.repeat(sums, np.diff(nearest.indptr)).astype(np.float32)
    return sp.csr_array(nearest)


def _term_weights(texts: Iterable[str]) -> sp.csr_array:
    """[N, V] float32 with rows of length 1."""
    vocabulary: dict[str, int] = {}
    columns: list[np.ndarray] = []
    for text in texts:
        words = sorted(set(_WORD.findall(text.lower())))
        columns.append(np.array([vocabulary.setdefault(word, len(vocabulary)) for word in words], np.int32))
    starts = np.concatenate([[0], np.cumsum([len(row) for row in columns])]).astype(np.int64)
    indices = np.concatenate([np.zeros(0, np.int32), *columns])
    num_texts, num_having = len(columns), np.bincount(indices, minlength=len(vocabulary))
    idf = np.log(num_texts / np.maximum(num_having, 1))
    idf[(num_having < 2) | (num_having > _max_having(num_having, _PRODUCTS_AN_ITEM * num_texts))] = 0
    data = idf[indices].astype(np.float32)
    counts = sp.csr_array((data, indices, starts), (num_texts, max(len(vocabulary), 1)))
    return _unit_rows(_rarest(counts))


def _max_having(num_having: np.ndarray, max_products: float) -> int:
    """The most texts that a term may be in, so that comparing all pairs by their shared terms stays affordable."""
    ascending = np.sort(num_having)
    products = np.cumsum(ascending.astype(np.float64) ** 2)
    return int(ascending[: np.searchsorted(products, max_products)].max(initial=1))


def _rarest(counts: sp.csr_array) -> sp.csr_array:
    """Only the `_MAX_TERMS` largest of each row, and none that is 0."""
    lens = np.diff(counts.indptr)
    rows = np.repeat(np.arange(counts.shape[0]), lens)
    order = np.lexsort((-counts.data, rows))
    place = np.arange(len(order)) - np.repeat(counts.indptr[:-1], lens)
    kept = order[(place < _MAX_TERMS) & (counts.data[order] > 0)]
    return sp.csr_array((counts.data[kept], (rows[kept], counts.indices[kept])), counts.shape)


def _unit_rows(matrix: sp.csr_array) -> sp.csr_array:
    lens = np.diff(matrix.indptr)
    rows = np.repeat(np.arange(matrix.shape[0]), lens)
    norms = np.sqrt(np.bincount(rows, matrix.data**2, minlength=matrix.shape[0]))
    matrix.data = (matrix.data / norms[rows]).astype(np.float32)
    return matrix


def _blocks(terms: sp.csr_array, by_term: sp.csr_array) -> list[tuple[int, int]]:
    """Ranges of rows whose products with all others fit in memory."""
    lens = np.diff(terms.indptr)
    rows = np.repeat(np.arange(terms.shape[0]), lens)
    cost = np.bincount(rows, np.diff(by_term.indptr)[terms.indices], minlength=terms.shape[0])
    block = (np.cumsum(cost) // _BLOCK_PRODUCTS).astype(np.int64)
    edges = [0, *(np.flatnonzero(np.diff(block)) + 1).tolist(), terms.shape[0]]
    return [(first, last) for first, last in itertools.pairwise(edges) if last > first]


def _nearest(cosines: sp.csr_array, first: int, num_neighbours: int) -> sp.csr_array:
    """The largest of each row; `first` is the item of row 0, so that no item is its own neighbour."""
    rows = np.repeat(np.arange(cosines.shape[0]), np.diff(cosines.indptr))
    other = cosines.indices != rows + first
    rows, columns, data = rows[other], cosines.indices[other], cosines.data[other]
    order = np.argsort(2.0 * rows - data, kind="stable")  # cosines are from 0 to 1; of equal ones the first item's
    begins = np.concatenate([[0], np.cumsum(np.bincount(rows, minlength=cosines.shape[0]))])
    kept = order[np.arange(len(order)) - begins[rows[order]] < num_neighbours]
    return sp.csr_array((data[kept], (rows[kept], columns[kept])), cosines.shape)
