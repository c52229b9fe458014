"""A tiny random model and its template: three layers, grouped-query attention, a byte-level tokenizer of its own.

The weights are scaled so that attention is far from uniform: a token too many or too few in a mask moves every score
by much more than the tolerances of the tests.
"""

from functools import cache

import jax.numpy as jnp
import numpy as np
import tokenizers
from tokenizers import AddedToken, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from rcjax.model.config import ModelConfig
from rcjax.model.decoder import abstract_params
from rcjax.model.spec import Model
from rcjax.model.tokenizer import Tokenizer

CHAT = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
TEMPLATE = r"""
name: tiny
version: 1
chat: true
instruction: "Rank for the shopper."
history:
  open: "Bought:\n"
  event: "- {{ title }}{% if rating is not none %} {{ '%g' % rating }}{% endif %}\n"
  empty: "- none\n"
item: " {{ title }}{% if description %}, {{ description }}{% endif %}"
label:
  sequential: {before_item: "\n{{ label }}:", task: "\nBest?"}
  parallel: {after_item: "\n={{ label }}", task: "\nBest?"}
anchor:
  sequential: {before_item: "\n*", after_item: "\nBuy:"}
  parallel: {after_item: "\nBuy:"}
  positive: " yes"
  negative: " no"
"""


@cache
def tiny_tokenizer() -> Tokenizer:
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    capitals = [chr(c) for c in range(ord("A"), ord("Z") + 1)]
    merges = [(a, b) for a in capitals for b in capitals]
    merges += [("Ġ", "y"), ("Ġy", "e"), ("Ġye", "s"), ("Ġ", "n"), ("Ġn", "o")]
    vocab = {token: i for i, token in enumerate(alphabet + [a + b for a, b in merges])}
    backend = tokenizers.Tokenizer(models.BPE(vocab=vocab, merges=merges))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    backend.add_special_tokens([AddedToken("<|im_start|>", special=True), AddedToken("<|im_end|>", special=True)])
    hf = PreTrainedTokenizerFast(tokenizer_object=backend, eos_token="<|im_end|>", chat_template=CHAT)
    return Tokenizer(hf)


@cache
def tiny_model(seed: int = 0) -> Model:
    tokenizer = tiny_tokenizer()
    config = ModelConfig(
        num_layers=3,
        d_model=32,
        num_heads=4,
        num_kv_heads=2,
        head_dim=8,
        d_ff=48,
        vocab_size=tokenizer.vocab_size,
        rope_theta=1000.0,
        norm_eps=1e-5,
        max_len=4096,
        qkv_bias=True,
        qk_norm=True,
    )
    rng = np.random.default_rng(seed)

    def draw(name: str, shape: tuple[int, ...]) -> jnp.ndarray:
        values = rng.standard_normal(shape)
        if name.endswith("norm"):
            values = 1.2 + 0.2 * values
        elif name.endswith("bias"):
            values *= 0.3
        elif name != "embed":
            values *= config.d_model**-0.5
        return jnp.asarray(values, jnp.float32)

    abstract = abstract_params(config)
    layers = {name: draw(name, leaf.shape) for name, leaf in abstract["layers"].items()}
    top = {name: draw(name, leaf.shape) for name, leaf in abstract.items() if name != "layers"}
    return Model("tiny", config, {**top, "layers": layers}, tokenizer, f"tiny-{seed}")
