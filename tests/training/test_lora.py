import jax
import numpy as np
from tiny_engine import tiny_model

from rcjax.training.lora import init_lora, merge_lora


def test_new_adapters_change_nothing():
    params = tiny_model().params
    merged = merge_lora(params, init_lora(params, 4, jax.random.key(0)), alpha=8.0)
    jax.tree.map(np.testing.assert_array_equal, merged, params)


def test_merging_adds_the_scaled_product_of_the_adapters():
    params = tiny_model().params
    adapters = init_lora(params, 2, jax.random.key(0))
    rng = np.random.default_rng(0)
    up = rng.standard_normal(adapters["o_proj"]["up"].shape).astype(np.float32)
    adapters["o_proj"]["up"] = up
    merged = merge_lora(params, adapters, alpha=6.0)
    weight, down = np.asarray(params["layers"]["o_proj"]), np.asarray(adapters["o_proj"]["down"])
    for layer in range(len(weight)):
        expected = weight[layer] + (3.0 * down[layer] @ up[layer]).reshape(weight[layer].shape)
        np.testing.assert_allclose(np.asarray(merged["layers"]["o_proj"])[layer], expected, atol=1e-5)
    np.testing.assert_array_equal(merged["layers"]["q_proj"], params["layers"]["q_proj"])
