"""The Llama family as one config: what differs between its members is a field here, not a class."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class RopeScaling:
    """How a checkpoint stretches RoPE beyond its pre-training length; fields as in Hugging Face's config.json.

    `kind` is "linear", "llama3" or "yarn". `attention_factor` multiplies cos and sin (yarn only).
    """

    kind: str
    factor: float
    original_max_len: int = 0
    low_freq_factor: float = 1.0  # llama3
    high_freq_factor: float = 4.0  # llama3
    beta_fast: float = 32.0  # yarn
    beta_slow: float = 1.0  # yarn
    attention_factor: float = 1.0  # yarn
    truncate: bool = True  # yarn


@dataclass(frozen=True, slots=True)
class ModelConfig:
    """The decoder's shape. Dims: L layers, D model, N query heads, K kv heads, H head dim, F ffn, V vocab."""

    num_layers: int
    d_model: int
    num_heads: int
    num_kv_heads: int
    head_dim: int
    d_ff: int
    vocab_size: int
    rope_theta: float
    norm_eps: float
    max_len: int
    rope_scaling: RopeScaling | None = None
    qkv_bias: bool = False
    qk_norm: bool = False
    tied_embeddings: bool = False
    sliding_window: int | None = None  # a token sees the last `sliding_window` positions, itself included

    def __post_init__(self) -> None:
        if self.num_heads % self.num_kv_heads:
            raise ValueError(f"{self.num_heads=} must be a multiple of {self.num_kv_heads=}")
        if self.head_dim % 2:
            raise ValueError(f"{self.head_dim=} must be even for RoPE")

    @property
    def kv_values_per_token(self) -> int:
        """Numbers that one cached token holds: K and V over all layers."""
        return 2 * self.num_layers * self.num_kv_heads * self.head_dim
