"""The profile of a host's engine: what a router needs to know of it to plan, without a weight of the model."""

from dataclasses import dataclass

from rcjax.cache import BlockKeys, PoolIdentity
from rcjax.config import Settings
from rcjax.engine.cost import CostModel, Program
from rcjax.engine.library import Library
from rcjax.engine.planner import Planner
from rcjax.model.config import ModelConfig
from rcjax.model.spec import load_tokenizer
from rcjax.prompt import PromptBuilder
from rcjax.prompt.template import load_template
from rcjax.request import EngineInfo
from rcjax.serving.security.salt import read_salt
from rcjax.serving.slices import arm_of, shapes_of
from rcjax.serving.startup import TEXT_CACHE_BYTES, OwnSlices


@dataclass(frozen=True, slots=True)
class Profile:
    """What hosts of one cluster have in common, and what passes take on the one that says it.

    `instruction` is the key of the instruction: model, tokenizer, template, salt and KV format are in it.
    """

    info: EngineInfo
    identity: PoolIdentity
    config: ModelConfig
    page_bytes: int
    max_block_pages: int
    instruction: bytes
    timed: dict[Program, float]

    @classmethod
    def of(cls, own: OwnSlices) -> "Profile":
        parts = own.parts
        return cls(
            info=own.info,
            identity=parts.keys.identity,
            config=parts.model.config,
            page_bytes=parts.programs.format.page_bytes,
            max_block_pages=parts.max_block_pages,
            instruction=parts.keys.instruction,
            timed=parts.cost.timed(),
        )


@dataclass(frozen=True, slots=True, eq=False)
class Planning:
    """What plans for hosts, and what passes there take."""

    planner: Planner
    builder: PromptBuilder
    cost: CostModel

    @classmethod
    def of(cls, settings: Settings, profile: Profile, library: Library | None = None) -> "Planning":
        """ValueError where the tokenizer, the template or the salt of this process is not that of the hosts."""
        builder = PromptBuilder(
            load_template(settings.template), load_tokenizer(settings.model), settings.limits.max_candidates
        )
        cost = CostModel(profile.config, profile.info.page_tokens, profile.page_bytes)
        cost.learn(profile.timed)
        keys = BlockKeys(profile.identity, builder.instruction_ids, read_salt(settings.server.key_salt_file))
        if keys.instruction != profile.instruction:
            raise ValueError(
                "the tokenizer, the template or server.key_salt_file here differ from those of the cluster's hosts; "
                "start with the settings and files that they have"
            )
        planner = Planner(
            builder,
            Library(TEXT_CACHE_BYTES) if library is None else library,
            keys,
            {name: arm_of(arm) for name, arm in settings.arms.items()},
            profile.info,
            shapes_of("rank", settings.shapes, cost),
            max_len=profile.config.max_len,
            max_block_pages=profile.max_block_pages,
            generate_shapes=shapes_of("generate", settings.shapes, cost) if settings.shapes.generate else None,
        )
        return cls(planner, builder, cost)
