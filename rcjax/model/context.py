"""Whether what a service may be asked for fits the model's context."""

from collections.abc import Mapping

from rcjax.model.config import ModelConfig
from rcjax.model.load_error import ModelLoadError


def check_context(config: ModelConfig, num_tokens: Mapping[str, int]) -> None:
    """Raises ModelLoadError for the first setting whose tokens alone are more than the model has positions for.

    `num_tokens` maps a setting's name to the tokens of one sequence that it allows, such as an instruction and one item
    of `limits.max_item_tokens`. Requests are checked against the context one by one as they are planned.
    """
    for name, tokens in num_tokens.items():
        if tokens > config.max_len:
            raise ModelLoadError(
                f"{name} allows {tokens} tokens, the model's context (max_position_embeddings) has {config.max_len}; "
                "lower the setting or use a model of longer context"
            )
