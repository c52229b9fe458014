from rcjax.kernels.selective_attention.api import Attention
from rcjax.kernels.selective_attention.config import Heads
from rcjax.kernels.selective_attention.dispatch import DENSE, REFERENCE, choose_attention
from rcjax.kernels.selective_attention.layout import PageLayout, Rope, TileLayout, TokenLayout

__all__ = [
    "DENSE",
    "REFERENCE",
    "Attention",
    "Heads",
    "PageLayout",
    "Rope",
    "TileLayout",
    "TokenLayout",
    "choose_attention",
]
