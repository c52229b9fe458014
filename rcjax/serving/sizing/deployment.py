"""The sizes that follow from settings, a model's config and a chip, before anything is started."""

from dataclasses import dataclass
from functools import cached_property

from rcjax.cache import num_pages_for_budget
from rcjax.config import Settings
from rcjax.engine.cost import CostModel
from rcjax.engine.shape import Shape
from rcjax.kernels.kv import KVFormat
from rcjax.kernels.selective_attention import Heads
from rcjax.kernels.selective_attention.dispatch import DEVICE_KERNELS, IMPLEMENTATIONS
from rcjax.kernels.selective_attention.tuned_table import tuned_tilings
from rcjax.model.config import ModelConfig
from rcjax.model.kv import kv_format
from rcjax.prompt import PromptBuilder
from rcjax.prompt.template import load_template
from rcjax.serving.sizing.chips import Chip
from rcjax.serving.sizing.memory import Weights, page_bytes_on_device, weights_on_device
from rcjax.serving.sizing.reach import ArmReach, arm_reaches
from rcjax.serving.sizing.report import DeviceMemory
from rcjax.serving.sizing.traffic import Traffic
from rcjax.serving.sizing.word_encoder import WordEncoder
from rcjax.serving.sizing.workspace import Workspace
from rcjax.serving.slices import Purpose, shapes_of

_LABELS = 2  # yes and no, beside a label for each candidate


@dataclass(frozen=True, eq=False)
class Deployment:
    """Settings on a chip. `mesh.tensor` must divide the model's kv heads, and the pool hold two pages."""

    settings: Settings
    config: ModelConfig
    chip: Chip
    traffic: Traffic

    @property
    def dtype(self) -> str:
        """Of the weights. Where `auto` would measure, on a CPU, the one that takes more."""
        if self.settings.dtype != "auto":
            return self.settings.dtype
        return "float32" if self.chip.platform == "cpu" else "bfloat16"

    @property
    def heads(self) -> Heads:
        c = self.config
        return Heads(c.head_dim, c.num_heads // c.num_kv_heads, self.dtype, self.format.dtype)

    @cached_property
    def attention(self) -> str:
        """The implementation that `choose_attention` would take on such a chip; as set, where it has none of it."""
        name = self.settings.attention
        if name != "auto":
            return name
        kernels = [kernel for kernel, platform in DEVICE_KERNELS.items() if platform == self.chip.platform]
        return next((kernel for kernel in kernels if tuned_tilings(kernel, self.heads, self.chip.kind)), "reference")

    @property
    def has_attention(self) -> bool:
        return DEVICE_KERNELS.get(self.attention) == self.chip.platform or self.attention in IMPLEMENTATIONS

    @cached_property
    def format(self) -> KVFormat:
        return kv_format(self.config, self.settings.kv_dtype(self.dtype), self.settings.cache.page_tokens)

    @cached_property
    def num_pages(self) -> int:
        """Of a slice's pool, the null page counted."""
        return num_pages_for_budget(int(self.settings.cache.pool_bytes), self.format.page_bytes)

    @cached_property
    def builder(self) -> PromptBuilder:
        template = load_template(self.settings.template)
        return PromptBuilder(template, WordEncoder(), self.settings.limits.max_candidates)

    @property
    def instruction_tokens(self) -> int:
        return len(self.builder.instruction_ids)

    @cached_property
    def cost(self) -> CostModel:
        """One that has timed nothing: only what it says of one pass beside another is of use."""
        return CostModel(self.config, self.settings.cache.page_tokens, self.format.page_bytes)

    @cached_property
    def shapes(self) -> dict[Purpose, list[Shape]]:
        """By purpose, as start-up compiles them."""
        purposes: tuple[Purpose, ...] = ("rank", "build", "generate")
        given = self.settings.shapes
        return {p: list(shapes_of(p, given, self.cost)) for p in purposes if getattr(given, p)}

    @cached_property
    def reaches(self) -> dict[str, ArmReach]:
        return arm_reaches(self.settings, self.builder, self.shapes["rank"])

    @cached_property
    def largest_request(self) -> tuple[int, str]:
        """The most pages of a request's blocks, by the longest texts that limits allow in any shape, and its arm."""
        limits = self.settings.limits
        longest = limits.max_item_tokens, limits.max_history_tokens
        return max(
            (reach.size(reach.max_candidates(limits.max_candidates, *longest), *longest).block_pages, name)
            for name, reach in self.reaches.items()
        )

    @cached_property
    def weights(self) -> Weights:
        return weights_on_device(self.config, self.dtype, self.settings.mesh.tensor)

    @cached_property
    def page_bytes_on_device(self) -> int:
        return page_bytes_on_device(self.format, self.settings.mesh.tensor, self.chip.platform)

    @cached_property
    def memory(self) -> DeviceMemory:
        workspace, workspace_of = max(self._workspaces())
        return DeviceMemory(
            usable=self.chip.usable_bytes,
            weights=self.weights.num_bytes,
            pool=self.num_pages * self.page_bytes_on_device,
            workspace=workspace,
            workspace_of=workspace_of,
        )

    def _workspaces(self) -> list[tuple[int, str]]:
        """Bytes of each pass, and what it is."""
        limits = self.settings.limits
        of = Workspace(
            self.config,
            self.dtype,
            self.settings.mesh.tensor,
            self.settings.cache.page_tokens,
            gathers=self.attention not in DEVICE_KERNELS,
            # On a TPU products read a layer's weights where they are.
            layer_bytes=0 if self.chip.platform == "tpu" else self.weights.layer_bytes,
        )
        num_labels = limits.max_candidates + _LABELS
        found = [(of.rank_bytes(s, limits.max_candidates, num_labels), f"rank {s}") for s in self.shapes["rank"]]
        found += [(of.build_bytes(shape), f"build {shape}") for shape in self.shapes["build"]]
        return found + [(of.decode_bytes(shape), f"generate {shape}") for shape in self.shapes.get("generate", ())]
