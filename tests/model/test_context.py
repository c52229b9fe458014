"""Settings against the model's context."""

import pytest

from rcjax.model.config import ModelConfig
from rcjax.model.context import check_context
from rcjax.model.load_error import ModelLoadError

CONFIG = ModelConfig(
    num_layers=1, d_model=8, num_heads=2, num_kv_heads=1, head_dim=4, d_ff=8, vocab_size=9, rope_theta=1e4,
    norm_eps=1e-5, max_len=32,
)  # fmt: skip


def test_what_fits_is_fine_and_what_does_not_is_named_with_both_numbers():
    check_context(CONFIG, {"limits.max_item_tokens": 32, "limits.max_history_tokens": 1})
    with pytest.raises(ModelLoadError, match=r"max_item_tokens allows 33 tokens, the model's context .* has 32; lower"):
        check_context(CONFIG, {"limits.max_history_tokens": 3, "limits.max_item_tokens": 33})
