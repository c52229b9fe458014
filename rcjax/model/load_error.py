"""Why a model cannot be loaded."""

from rcjax.errors import RcjaxError


class ModelLoadError(RcjaxError, ValueError):
    """A checkpoint, tokenizer or model spec that this build cannot load; the message says what would help."""
