"""What is known of requests before an engine starts: whether their texts are within the limits, and their length."""

from collections.abc import Mapping
from dataclasses import replace

from rcjax.catalog import Item, Request
from rcjax.config import ArmSettings, Settings
from rcjax.errors import InvalidRequestError
from rcjax.evaluation.dataset import Dataset
from rcjax.model.spec import Model
from rcjax.prompt import BlockKind, FittingTexts, PromptBuilder
from rcjax.prompt.template import load_template


class PromptTexts:
    """The settings' template and limits with the model's tokenizer, as an engine would apply them."""

    def __init__(self, settings: Settings, model: Model, arms: Mapping[str, ArmSettings]):
        limits = settings.limits
        self._builder = PromptBuilder(load_template(settings.template), model.tokenizer, limits.max_candidates)
        self._texts = FittingTexts(self._builder, limits.max_item_tokens, limits.max_history_tokens)
        self._ways = {(arm.layout, arm.scoring) for arm in arms.values()}

    def is_servable(self, item: Item) -> bool:
        try:
            self._texts.item_ids(item, "item")
        except InvalidRequestError:
            return False
        return True

    def fitting(self, dataset: Dataset) -> tuple[Dataset, list[InvalidRequestError], list[int]]:
        """The requests within the limits, what is wrong with the others, and the tokens of prompts in each layout.

        ValueError where no request is within the limits.
        """
        fitting: list[Request] = []
        left_out: list[InvalidRequestError] = []
        num_tokens: list[int] = []
        for request in dataset.asked.requests:
            try:
                num_tokens += self._prompt_tokens(dataset, request)
            except InvalidRequestError as error:
                left_out.append(error)
            else:
                fitting.append(request)
        if not fitting:
            advice = "raise the settings' limits, or let the template show less"
            raise ValueError(f"no request is within the limits ({advice}): {left_out[0]}")
        return replace(dataset, asked=replace(dataset.asked, requests=tuple(fitting))), left_out, num_tokens

    def _prompt_tokens(self, dataset: Dataset, request: Request) -> list[int]:
        builder = self._builder
        user = dataset.asked.users[request.user_id]
        history = builder.history_block(self._texts.history(user.events, "user.events").token_ids)
        items = [
            builder.block(BlockKind.ITEM, self._texts.item_ids(dataset.asked.items[i], f"items[{i!r}]"))
            for i in request.candidates
        ]
        return [builder.build(history, items, *way).num_tokens for way in self._ways]
