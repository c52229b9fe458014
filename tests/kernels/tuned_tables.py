"""Tuned tables that tests write, of the device that they run on."""

import json

import jax

from rcjax.kernels.selective_attention.config import Heads
from rcjax.kernels.selective_attention.tuned_table import table_path

HEADS = Heads(head_dim=128, group=4, dtype="bfloat16", kv_dtype="bfloat16")
SIZES = {
    "pallas_gpu": {"queries": 16, "keys": 32, "splits": None, "warps": 4, "stages": 2},
    "pallas_tpu": {"queries": 32, "keys": 128},
}


def entry(kernel="pallas_gpu", *, fresh_tokens=128, layer_us=90.5, **sizes):
    heads = {"head_dim": 128, "group": 4, "dtype": "bfloat16", "kv_dtype": "bfloat16"}
    tiling = SIZES[kernel] | sizes
    return {"kernel": kernel, **heads, "fresh_tokens": fresh_tokens, "layer_us": layer_us, "tiling": tiling}


def table_of(folder, *entries, **fields):
    """Writes the table of the present device and returns its path."""
    kind = jax.devices()[0].device_kind
    path = table_path(kind, folder)
    path.write_text(json.dumps({"device_kind": kind, "measured": {}, "entries": list(entries)} | fields))
    return path
