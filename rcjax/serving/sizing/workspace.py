"""What a pass needs beside weights and pages: an estimate from shapes, which tests hold against XLA's own figures.

XLA reuses buffers as it likes, so this counts what a layer has alive at its widest, and what lives through all layers.
"""

from dataclasses import dataclass

import numpy as np

from rcjax.engine.shape import Shape
from rcjax.kernels.selective_attention.chunks import FEW_QUERIES, QUERY_BLOCK, chunk_len
from rcjax.model.config import ModelConfig

_F32 = 4


@dataclass(frozen=True, slots=True)
class Workspace:
    """Estimates the bytes of passes on one device.

    `gathers` says whether attention copies the pages that a pass reads into one array, as `reference` does and kernels
    do not. `layer_bytes` are those of one layer's weights, which a CPU or a GPU copies out of the stacked ones.
    """

    config: ModelConfig
    dtype: str
    tensor: int
    page_tokens: int
    gathers: bool
    layer_bytes: int

    def rank_bytes(self, shape: Shape, num_reads: int, num_labels: int) -> int:
        """Of a ranking pass, its logits included."""
        logits = shape.batch * num_reads * num_labels * _F32
        columns = num_labels * self.config.d_model * self._itemsize
        return self._pass_bytes(shape) + logits + columns

    def build_bytes(self, shape: Shape) -> int:
        """Of a build pass: the fresh tokens' KV of all layers lives until it is written, twice its pages' worth."""
        written = 2 * -(-shape.fresh_tokens // self.page_tokens) * self.page_tokens
        return max(self._pass_bytes(shape), self._kv_bytes(written)) + self._kv_bytes(shape.batch * shape.fresh_tokens)

    def decode_bytes(self, shape: Shape) -> int:
        """As a build pass, with logits of the whole vocabulary at one token a row."""
        return self.build_bytes(shape) + shape.batch * self.config.vocab_size * _F32

    @property
    def _itemsize(self) -> int:
        return np.dtype("float32").itemsize if self.dtype == "float32" else 2

    def _kv_bytes(self, num_tokens: int) -> int:
        return num_tokens * self.config.kv_values_per_token // self.tensor * self._itemsize

    def _pass_bytes(self, shape: Shape) -> int:
        tokens = shape.batch * shape.fresh_tokens
        hidden = 3 * tokens * self.config.d_model * self._itemsize
        return hidden + self.layer_bytes + max(self._mlp_bytes(tokens), self._attention_bytes(shape))

    def _mlp_bytes(self, tokens: int) -> int:
        return 3 * tokens * self.config.d_ff // self.tensor * self._itemsize

    def _attention_bytes(self, shape: Shape) -> int:
        c, tokens = self.config, shape.batch * shape.fresh_tokens
        heads, kv_heads = c.num_heads // self.tensor, c.num_kv_heads // self.tensor
        projected = 2 * tokens * (heads + 2 * kv_heads) * c.head_dim * self._itemsize
        parts = 1 + (shape.num_pages > 0) + (shape.tiles > 0)
        found = 2 * parts * tokens * heads * c.head_dim * _F32
        if not self.gathers:
            return projected + found
        return projected + found + max(self._shared_bytes(shape), self._tile_bytes(shape)) + self._masks(shape)

    def _shared_bytes(self, shape: Shape) -> int:
        """Fresh keys and the pages that all queries may see: gathered, turned, and scored a chunk at a time."""
        c, num_keys = self.config, shape.num_pages * self.page_tokens
        queries = min(shape.fresh_tokens, QUERY_BLOCK if shape.fresh_tokens > FEW_QUERIES else FEW_QUERIES)
        chunk = max(
            chunk_len(shape.fresh_tokens, max(num_keys, 1), self.page_tokens),
            chunk_len(shape.fresh_tokens, shape.fresh_tokens),
        )
        kv_dim = c.num_kv_heads // self.tensor * c.head_dim
        gathered = 3 * shape.batch * max(num_keys, shape.fresh_tokens) * kv_dim * self._itemsize
        return gathered + 2 * shape.batch * c.num_heads // self.tensor * queries * chunk * _F32

    def _tile_bytes(self, shape: Shape) -> int:
        """Every query head of a tile against all kv heads of its pages, as `attend_tiles` lays them out."""
        c, kv_heads = self.config, self.config.num_kv_heads // self.tensor
        num_keys = shape.batch * shape.tiles * shape.tile_pages * self.page_tokens
        rows = c.num_heads // self.tensor * shape.tile_tokens
        gathered = 3 * num_keys * kv_heads * c.head_dim * self._itemsize
        products = 2 * shape.batch * shape.tiles * rows * kv_heads * c.head_dim * _F32
        return gathered + 2 * num_keys * rows * _F32 + products

    def _masks(self, shape: Shape) -> int:
        """Which query sees which key, once for all layers; and the angles by which keys turn."""
        keys = shape.num_pages * self.page_tokens + shape.fresh_tokens
        own = shape.tiles * shape.tile_tokens * shape.tile_pages * self.page_tokens
        return 2 * shape.batch * (shape.fresh_tokens * keys + own)
