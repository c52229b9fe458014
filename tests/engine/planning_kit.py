"""A planner around the tiny template and a tokenizer of characters, without a model, and the oracle of its prompts."""

from functools import cache
from types import SimpleNamespace

import numpy as np
import yaml
from char_encoder import CharEncoder, Frame
from dense_oracle import Oracle
from tiny_engine import ARMS, LIMITS, PAGE_TOKENS, TEMPLATE, event, item

from rcjax.cache import BlockKeys, PoolIdentity
from rcjax.catalog.types import User
from rcjax.config import ArmSettings
from rcjax.engine.arm import Arm
from rcjax.engine.library import Library
from rcjax.engine.planner import Planner
from rcjax.engine.shape import Shape, ShapeSet
from rcjax.model.selection import parse_policy
from rcjax.prompt import PromptBuilder
from rcjax.prompt.template import Template
from rcjax.request import EngineInfo, PutItems, PutUser, ServiceLimits

CAPITALS = [chr(c) for c in range(ord("A"), ord("Z") + 1)]
SHAPES = (Shape(64, 64), Shape(320, 64), Shape(448, 320), Shape(8000, 0))
SERVICE_LIMITS = ServiceLimits(max_id_len=20, max_text_len=150, max_categories=3, max_items=50, max_events=50)


class ChatEncoder(CharEncoder):
    """Characters, the template's answers and labels of two letters, inside the tiny model's chat template."""

    def __init__(self):
        super().__init__(words=(" yes", " no", *(a + b for a in CAPITALS for b in CAPITALS)))

    def chat_frame(self, system):
        return Frame(
            f"<|im_start|>system\n{system}<|im_end|>\n<|im_start|>user\n", "<|im_end|>\n<|im_start|>assistant\n"
        )


def prompt_oracle():
    return Oracle(SimpleNamespace(tokenizer=ChatEncoder()))


def arm_of(settings: ArmSettings) -> Arm:
    return Arm(settings.layout, settings.scoring, settings.reuse, parse_policy(settings.selection), settings.history)


@cache
def tiny_builder():
    return PromptBuilder(Template.model_validate(yaml.safe_load(TEMPLATE)), ChatEncoder(), LIMITS.max_candidates)


def new_planner(
    encoder=None,
    arms=ARMS,
    default_arm="parallel_anchor_blocks",
    template=None,
    shapes=SHAPES,
    max_cache_bytes=2**20,
    max_len=4096,
    max_block_pages=1000,
    limits=SERVICE_LIMITS,
    cost_of=lambda shape: shape.fresh_tokens + shape.num_pages / 1024,
):
    builder = tiny_builder()
    if encoder or template:
        builder = PromptBuilder(template or builder.template, encoder or ChatEncoder(), LIMITS.max_candidates)
    info = EngineInfo(
        "tiny",
        "f",
        "tiny v1",
        "float32",
        "cpu",
        "0",
        PAGE_TOKENS,
        LIMITS.max_candidates,
        LIMITS.max_item_tokens,
        LIMITS.max_history_tokens,
        tuple(arms),
        default_arm,
        limits=limits,
    )
    identity = PoolIdentity("tiny", "chars", builder.template.identity, "float32", PAGE_TOKENS)
    return Planner(
        builder,
        Library(max_cache_bytes),
        BlockKeys(identity, builder.instruction_ids),
        {name: arm_of(arm) for name, arm in arms.items()},
        info,
        ShapeSet("rank", shapes, cost_of),
        max_len=max_len,
        max_block_pages=max_block_pages,
    )


def write_to(planner, write):
    """Plans and swaps a write, as a router does once the workers are done; returns its plan and what it deleted."""
    plan = planner.plan_write(write)
    num_deleted = planner.library.swap(plan)
    planner.library.versions.end_write(plan.version)
    return plan, num_deleted


def planned(planner, request):
    plan = planner.plan(request)
    planner.library.versions.end_read(plan.version)
    return plan


def token_ids(prompt):
    return np.concatenate([block.token_ids for block in prompt.blocks]).tolist()


ITEMS = [item(i) for i in range(5)]
EVENTS = (event(0), event(1))
ALL = tuple(one.item_id for one in ITEMS)


def stock(planner):
    """Puts `ITEMS`, and the user "u" with `EVENTS`."""
    write_to(planner, PutItems(tuple(ITEMS)))
    write_to(planner, PutUser(User("u", EVENTS)))
    return planner
