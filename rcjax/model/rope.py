"""Rotary position embedding, with the scalings that Hugging Face checkpoints of the family use."""

import math

import numpy as np
from jaxtyping import Int, Shaped

from rcjax.kernels.selective_attention import Rope
from rcjax.model.config import ModelConfig, RopeScaling


def rope_of(config: ModelConfig) -> Rope:
    """The rotation that the attention operator applies for this model."""
    factor = config.rope_scaling.attention_factor if config.rope_scaling else 1.0
    return Rope(inverse_frequencies(config), factor)


def turned(x: Shaped[np.ndarray, "L T K H"], pos: Int[np.ndarray, "T"], rope: Rope) -> Shaped[np.ndarray, "L T K H"]:
    """Rotates keys to `pos` on the host, where a pass would have to be compiled for each length."""
    first, second = np.split(x.astype(np.float32), 2, axis=-1)
    angle = pos.astype(np.float32)[:, None, None] * rope.inv_freq
    cos, sin = np.cos(angle) * rope.factor, np.sin(angle) * rope.factor
    return np.concatenate([first * cos - second * sin, second * cos + first * sin], axis=-1).astype(x.dtype)


def turned_back(
    x: Shaped[np.ndarray, "L T K H"], pos: Int[np.ndarray, "T"], rope: Rope
) -> Shaped[np.ndarray, "L T K H"]:
    """Undoes `turned`."""
    return turned(x, -pos, Rope(rope.inv_freq, 1 / rope.factor))


def inverse_frequencies(config: ModelConfig) -> np.ndarray:
    """Angular frequency of each rotated pair, float32 `[H/2]`, after the config's scaling.

    Computed in float64 on the host: the frequencies are constants of the compiled program.
    """
    exponent = np.arange(0, config.head_dim, 2, dtype=np.float64) / config.head_dim
    freq = config.rope_theta**-exponent
    scaling = config.rope_scaling
    if scaling is None:
        return freq.astype(np.float32)
    if scaling.kind == "linear":
        freq = freq / scaling.factor
    elif scaling.kind == "llama3":
        freq = _llama3(freq, scaling)
    elif scaling.kind == "yarn":
        freq = _yarn(freq, config.rope_theta, config.head_dim, scaling)
    else:
        raise ValueError(f"{scaling.kind=} is not supported; use one of 'linear', 'llama3', 'yarn'")
    return freq.astype(np.float32)


def _llama3(freq: np.ndarray, scaling: RopeScaling) -> np.ndarray:
    wavelength = 2 * math.pi / freq
    low = scaling.original_max_len / scaling.low_freq_factor
    high = scaling.original_max_len / scaling.high_freq_factor
    smooth = (scaling.original_max_len / wavelength - scaling.low_freq_factor) / (
        scaling.high_freq_factor - scaling.low_freq_factor
    )
    between = (1 - smooth) * freq / scaling.factor + smooth * freq
    return np.where(wavelength > low, freq / scaling.factor, np.where(wavelength < high, freq, between))


def _yarn(freq: np.ndarray, theta: float, head_dim: int, scaling: RopeScaling) -> np.ndarray:
    """Peng et al., "YaRN", arXiv 2309.00071, eq. 13: pairs between beta_fast and beta_slow turns are mixed."""

    def pair_with_turns(turns: float) -> float:
        return head_dim * math.log(scaling.original_max_len / (turns * 2 * math.pi)) / (2 * math.log(theta))

    low, high = pair_with_turns(scaling.beta_fast), pair_with_turns(scaling.beta_slow)
    if scaling.truncate:
        low, high = math.floor(low), math.ceil(high)
    low, high = max(low, 0), min(high, head_dim - 1)
    ramp = np.clip((np.arange(head_dim // 2) - low) / max(high - low, 0.001), 0, 1)
    return freq / scaling.factor * ramp + freq * (1 - ramp)
