"""Seconds to build a catalogue and to restore one: from timed passes, or else from the hardware's limits."""

from dataclasses import dataclass

from rcjax.engine.cost import layer_flops
from rcjax.model.config import ModelConfig
from rcjax.serving.sizing.chips import Chip

MODELLED = "modelled, at best"
TIMED = "timed"


@dataclass(frozen=True, slots=True)
class BuildRate:
    """Of one slice: tokens a second, in full passes of its largest build shape.

    `basis` says whether it was timed or follows from the peaks of data sheets, which nothing reaches.
    """

    tokens_per_s: float
    basis: str


def modelled_rate(
    config: ModelConfig, chip: Chip, *, tensor: int, tokens: int, context: float, weight_bytes: int
) -> BuildRate:
    """A pass takes its products at the chip's peak or reads a device's weights once, whichever is longer.

    `context` are the tokens that a built one sees.
    """
    flops = tokens * config.num_layers * layer_flops(config, context) / tensor
    pass_s = max(flops / chip.flops_per_s, weight_bytes / chip.bytes_per_s)
    return BuildRate(tokens / pass_s, MODELLED)


def restore_s(num_bytes: float, copies: float, chip: Chip, num_devices: int, disk_bytes_per_s: float) -> float:
    """Reading a snapshot once from the disk, and bringing each block's copies to the devices, side by side."""
    return max(num_bytes / disk_bytes_per_s, num_bytes * copies / (chip.link_bytes_per_s * num_devices))
