import jax
import numpy as np
from tiny_engine import tiny_model

from rcjax.model.adapter import load_adapter
from rcjax.model.adapter_export import write_adapter
from rcjax.model.adapter_origin import AdapterOrigin
from rcjax.prompt import Layout, Scoring
from rcjax.training.lora import init_lora, merge_lora, on_top_of


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


def test_on_top_of_an_adapter_both_are_added(tmp_path):
    """Of the adapter below, which has fewer projections and other ranks, and of the new one."""
    model, rng = tiny_model(), np.random.default_rng(0)

    def drawn(adapters):
        return jax.tree.map(lambda x: rng.standard_normal(x.shape).astype(np.float32), adapters)

    below = {
        "o_proj": drawn(init_lora(model.params, 3, jax.random.key(0))["o_proj"]),
        "up_proj": drawn(init_lora(model.params, 1, jax.random.key(0))["up_proj"]),
    }
    origin = AdapterOrigin("tiny v1", "", Layout.PARALLEL, Scoring.ANCHOR, "", model.config.num_layers)
    write_adapter(tmp_path, model.config, below, 6.0, base="tiny", origin=origin)
    own = drawn(init_lora(model.params, 2, jax.random.key(1)))
    both, alpha = on_top_of(load_adapter(str(tmp_path), model.config), model.config, own, 8.0)
    assert {name: adapter["down"].shape[2] for name, adapter in both.items()} == dict.fromkeys(own, 5)
    for name, adapter in both.items():
        expected = 4.0 * own[name]["down"] @ own[name]["up"]
        if name in below:
            expected += 6.0 / below[name]["down"].shape[2] * below[name]["down"] @ below[name]["up"]
        np.testing.assert_allclose(alpha / 5 * adapter["down"] @ adapter["up"], expected, rtol=1e-4, atol=1e-4)
