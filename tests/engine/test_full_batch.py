"""The batch that passes are timed with, against the visibility rule."""

import jax
import numpy as np
import pytest

from rcjax.engine.assembly import assemble
from rcjax.engine.full_batch import full_batch
from rcjax.engine.shape import Shape
from rcjax.kernels.selective_attention import REFERENCE, Rope

C = 4
ROPE = Rope(np.ones(2, np.float32))
SHAPES = [Shape(6, 3, batch=2), Shape(5, 0), Shape(6, 2, tiles=4, tile_tokens=2, tile_pages=3, at_home=True)]


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_every_query_sees_all_that_it_may(shape):
    batch = full_batch(shape, C, 1)
    view = REFERENCE.view(batch.tokens, batch.pages, batch.tiles, rope=ROPE).made
    fresh = np.asarray(view.fresh.seen).reshape(shape.batch, shape.fresh_tokens, shape.fresh_tokens)
    np.testing.assert_array_equal(fresh, np.tril(np.ones_like(fresh)))
    if shape.num_pages:
        assert np.asarray(view.cached.seen).all()
    if shape.tiles:
        in_tile = np.asarray(batch.tiles.tokens) >= 0
        assert in_tile.sum() == shape.fresh_tokens
        assert np.asarray(view.tiles.seen)[in_tile].all()


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_it_runs_in_the_program_of_its_shape(shape):
    """The same arrays, but for what is in them."""
    full, empty = (jax.tree.map(lambda x: (x.shape, x.dtype), made(shape)) for made in (_full, _empty))
    assert full == empty


def _full(shape):
    return full_batch(shape, C, 3)


def _empty(shape):
    return assemble([], [], shape, C, 3)
