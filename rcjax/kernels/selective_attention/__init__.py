from rcjax.kernels.arrays import AnyArray
from rcjax.kernels.selective_attention.api import selective_attention
from rcjax.kernels.selective_attention.layout import PageLayout, Rope, TokenLayout
from rcjax.kernels.selective_attention.mass import attention_mass

__all__ = ["AnyArray", "PageLayout", "Rope", "TokenLayout", "attention_mass", "selective_attention"]
