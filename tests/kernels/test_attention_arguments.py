"""Arguments of the operator that cannot be, which every implementation refuses alike."""

from dataclasses import replace

import jax
import numpy as np
import pytest
from operator_runs import case_of, run

from rcjax.kernels.selective_attention import TileLayout
from rcjax.kernels.selective_attention.dispatch import IMPLEMENTATIONS

every_implementation = pytest.mark.parametrize("attention", IMPLEMENTATIONS.values(), ids=IMPLEMENTATIONS)
POOL = np.zeros((9, 5, 2, 8), np.float32)


def measure(attention, inputs, model):
    args = inputs.q, inputs.k_new, inputs.tokens, inputs.tokens.pos >= 0, inputs.kv, inputs.pages
    return attention.mass(*args, rope=model.rope, window=model.window)


@every_implementation
@pytest.mark.parametrize("operation", [run, measure])
@pytest.mark.parametrize(
    ("of_inputs", "of_model", "message"),
    [
        ({"q": np.zeros((1, 11, 3, 8), np.float32)}, {}, "num_heads=3 must be a multiple of num_kv_heads=2"),
        ({}, {"window": 0}, "window=0 must be at least 1"),
        ({}, {"head_dim": 6}, "rope.inv_freq of 3 must hold half of head_dim=8"),
        (dict.fromkeys(["k_pages", "v_pages"], POOL), {}, "pages.drop is for pages of 4, which have page_tokens=5"),
    ],
)
def test_impossible_arguments_are_refused(attention, operation, of_inputs, of_model, message):
    case, inputs = case_of("all_fresh")
    with pytest.raises(ValueError, match=message):
        jax.eval_shape(lambda x: operation(attention, x, replace(case, **of_model)), inputs._replace(**of_inputs))


@every_implementation
def test_pages_of_two_sizes_are_refused(attention):
    case, inputs = case_of("tiles")
    own = replace(inputs.tiles.pages, drop=np.zeros((1, 3, 2, 5), bool))
    with pytest.raises(ValueError, match=r"tiles.pages.drop.shape=\(1, 3, 2, 5\) must end in page_tokens=4"):
        attention.view(inputs.tokens, inputs.pages, TileLayout(inputs.tiles.tokens, own), rope=case.rope)
