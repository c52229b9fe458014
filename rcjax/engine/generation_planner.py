"""The generation planner: from a text or a request to continue to what a slice needs for it. No JAX here."""

import math
from collections.abc import Callable
from dataclasses import dataclass

from rcjax.engine.generation import Sampling
from rcjax.engine.plan import Plan, PlannedBlock
from rcjax.engine.shape import RowSize, ShapeSet
from rcjax.engine.validation import check_characters
from rcjax.engine.versions import Versions
from rcjax.errors import InvalidRequestError, RcjaxError
from rcjax.prompt import Block
from rcjax.request import GenerateRequest, RecommendRequest, ServiceLimits

MAX_SEED = 2**64 - 1


@dataclass(frozen=True, slots=True, eq=False)
class GenerationPlan:
    """What is to be continued, how, and what that takes of a slice."""

    source: Plan | Block
    sampling: Sampling
    wanted: tuple[PlannedBlock, ...]
    cost_s: float  # of all passes, should all tokens that were asked for come
    version: int

    @property
    def share_s(self) -> float:
        """As a request's; each pass is for one generation alone."""
        return self.cost_s

    @property
    def full_pass_s(self) -> float:
        return self.cost_s


class GenerationPlanner:
    """Plans generations; any thread may call it. `shapes` are None where none are configured."""

    def __init__(
        self,
        plan_request: Callable[[RecommendRequest], Plan],
        text_block: Callable[[str], Block],
        versions: Versions,
        shapes: ShapeSet | None,
        limits: ServiceLimits,
        *,
        page_tokens: int,
        max_len: int,
    ):
        self._plan_request = plan_request
        self._text_block = text_block
        self._versions = versions
        self._shapes = shapes
        self._limits = limits
        self._page_tokens = page_tokens
        self._max_len = max_len

    def plan(self, request: GenerateRequest) -> GenerationPlan:
        """The plan of a generation; raises an `RcjaxError` for one that cannot be served.

        The plan's version is alive until the caller ends it (`library.versions.end_read`).
        """
        if self._shapes is None:
            raise InvalidRequestError("this engine has no generate shapes; configure shapes.generate")
        sampling = _sampling(request)
        if isinstance(request.prompt, str):
            return self._plan_text(request.prompt, sampling, self._shapes)
        try:
            plan = self._plan_request(request.prompt)
        except RcjaxError as error:
            if error.field:
                error.field = f"request.{error.field}"
            raise
        try:
            end = max(block.end for block in plan.prompt.blocks)
            cost_s = plan.cost_s + self._steps_s(end, plan.size.num_pages, sampling, self._shapes)
        except BaseException:
            self._versions.end_read(plan.version)
            raise
        return GenerationPlan(plan, sampling, plan.wanted, cost_s, plan.version)

    def _plan_text(self, text: str, sampling: Sampling, shapes: ShapeSet) -> GenerationPlan:
        if not text:
            raise InvalidRequestError("text is empty; give one to continue", field="text")
        if len(text) > self._limits.max_text_len:
            message = f"text is {len(text)} characters long, over the limit of {self._limits.max_text_len}"
            raise InvalidRequestError(message, field="text")
        check_characters(text, "text")
        block = self._text_block(text)
        prefill_s = shapes.seconds(shapes.fit([RowSize(len(block), 0)]))
        cost_s = prefill_s + self._steps_s(len(block), self._pages_for(len(block)), sampling, shapes)
        return GenerationPlan(block, sampling, (), cost_s, self._versions.begin_read())

    def _steps_s(self, prompt_len: int, num_pages: int, sampling: Sampling, shapes: ShapeSet) -> float:
        """Seconds of a pass for each new token; refuses more tokens than the model or a shape has room for."""
        num_new = sampling.max_new_tokens
        if prompt_len + num_new > self._max_len:
            raise InvalidRequestError(
                f"max_new_tokens is {num_new}; with the prompt's {prompt_len} positions that is over the model's "
                f"context of {self._max_len}; ask for fewer",
                field="max_new_tokens",
            )
        return num_new * shapes.seconds(shapes.fit([RowSize(1, num_pages + self._pages_for(num_new))]))

    def _pages_for(self, num_tokens: int) -> int:
        return -(-num_tokens // self._page_tokens)


def _sampling(request: GenerateRequest) -> Sampling:
    if request.max_new_tokens < 1:
        message = f"max_new_tokens is {request.max_new_tokens}; ask for at least 1"
        raise InvalidRequestError(message, field="max_new_tokens")
    if not 0 <= request.temperature < math.inf:
        message = f"temperature is {request.temperature}, not a finite number from 0"
        raise InvalidRequestError(message, field="temperature")
    if not 0 <= request.seed <= MAX_SEED:
        raise InvalidRequestError(f"seed is {request.seed}, not within 0 and {MAX_SEED}", field="seed")
    return Sampling(request.max_new_tokens, request.temperature, request.seed)
