from rcjax.kernels.selective_attention.api import selective_attention
from rcjax.kernels.selective_attention.layout import AnyArray, PageLayout, Rope, TokenLayout

__all__ = ["AnyArray", "PageLayout", "Rope", "TokenLayout", "selective_attention"]
