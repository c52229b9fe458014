"""PEFT's adapter_config.json: which modules a LoRA adapter changes, refusing by name what is more than that."""

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rcjax.model.fields import Fields, read_json
from rcjax.model.load_error import ModelLoadError

FILE = "adapter_config.json"
# Fields that do not change what W + scale B A is.
_IRRELEVANT = {
    "auto_mapping",
    "base_model_name_or_path",
    "eva_config",
    "inference_mode",
    "loftq_config",
    "lora_dropout",
    "megatron_core",
    "peft_version",
    "qalora_group_size",
    "revision",
    "task_type",
}
_READ = {
    "alpha_pattern",
    "bias",
    "exclude_modules",
    "init_lora_weights",
    "layers_pattern",
    "layers_to_transform",
    "lora_alpha",
    "peft_type",
    "r",
    "rank_pattern",
    "target_modules",
    "use_rslora",
}
# Ways to start training that leave the base's weights as they are; others take a part of them away.
_STARTS = (True, False, "gaussian", "eva", "orthogonal")
_ALL_LINEAR = "all-linear"
# PEFT's forms, around the expressions of a file.
_LAYER_OF = r"(?:^|.*?\.){}\.(?P<layer>\d+)\."
_END_OF = r"(.*\.)?({})$"


@dataclass(frozen=True, slots=True)
class AdapterConfig:
    """What PEFT reads out of the file. Modules have their names in the base model: `model.layers.0.mlp.up_proj`.

    Names and patterns mean what they mean to PEFT: a list has ends of names, a text is a regular expression.
    """

    rank: int
    alpha: float
    is_rank_stabilised: bool
    targets: tuple[str, ...] | str
    excluded: tuple[str, ...] | str
    layers: frozenset[int] | None
    layers_patterns: tuple[str, ...]
    rank_pattern: Mapping[str, int]
    alpha_pattern: Mapping[str, float]

    def is_target(self, module: str) -> bool:
        if _matches(self.excluded, module) or not _matches(self.targets, module):
            return False
        if self.layers is None or module in self.targets:
            return True
        patterns = self.layers_patterns or (r"[^.]*",)
        found = next(filter(None, (re.match(_LAYER_OF.format(pattern), module) for pattern in patterns)), None)
        return found is not None and int(found["layer"]) in self.layers

    def rank_of(self, module: str) -> int:
        return int(_of_pattern(self.rank_pattern, module, self.rank))

    def scale_of(self, module: str) -> float:
        """What the product B A is multiplied by."""
        rank = self.rank_of(module)
        alpha = _of_pattern(self.alpha_pattern, module, self.alpha)
        return alpha / (math.sqrt(rank) if self.is_rank_stabilised else rank)


def read_adapter_config(folder: Path) -> AdapterConfig:
    """Raises ModelLoadError naming the file, the field and its value for all that this model cannot compute."""
    path = folder / FILE
    if not path.exists():
        raise ModelLoadError(f"{folder} holds no {FILE}; give the folder that PEFT's save_pretrained wrote")
    fields = read_json(path)
    _refuse_unsupported(fields)
    rank_pattern, alpha_pattern = fields.object("rank_pattern"), fields.object("alpha_pattern")
    for key, pattern in (("rank_pattern", rank_pattern), ("alpha_pattern", alpha_pattern)):
        for expression in pattern.values:
            _check_expression(fields, key, expression, _END_OF)
    if not fields.has("target_modules"):
        raise fields.error("target_modules", "must name the modules that it changes")
    return AdapterConfig(
        rank=fields.integer("r", 8),
        alpha=fields.number("lora_alpha", 8.0),
        is_rank_stabilised=fields.flag("use_rslora", False),
        targets=_modules(fields, "target_modules"),
        excluded=_modules(fields, "exclude_modules"),
        layers=_layers(fields),
        layers_patterns=_layers_patterns(fields),
        rank_pattern={key: rank_pattern.integer(key) for key in rank_pattern.values},
        alpha_pattern={key: alpha_pattern.number(key) for key in alpha_pattern.values},
    )


def _refuse_unsupported(fields: Fields) -> None:
    if fields.text("peft_type") != "LORA":
        raise fields.error("peft_type", "is not supported; only 'LORA' is")
    start = fields.values.get("init_lora_weights", True)
    if start is not None and start not in _STARTS:
        raise fields.error(
            "init_lora_weights",
            "changes the base's weights too; convert it to plain LoRA (save_pretrained with "
            "path_initial_model_for_weight_conversion), or merge it in PEFT",
        )
    if fields.text("bias", "none") != "none":
        raise fields.error("bias", "is not supported; only 'none' is: merge it in PEFT (merge_and_unload)")
    for key in sorted(fields.values.keys() - _READ - _IRRELEVANT):
        # Whatever a variant of LoRA is called: where it is not used its field is null, false or empty.
        if fields.values[key]:
            raise fields.error(key, "is not supported, only plain LoRA is; merge it in PEFT (merge_and_unload)")


def _modules(fields: Fields, key: str) -> tuple[str, ...] | str:
    """Names, or a regular expression."""
    value = fields.values.get(key)
    if not isinstance(value, str):
        return tuple(fields.texts(key))
    if value.lower() == _ALL_LINEAR:
        return ".*"
    _check_expression(fields, key, value)
    return value


def _layers(fields: Fields) -> frozenset[int] | None:
    """Those that are changed; None for all."""
    value: Any = fields.values.get("layers_to_transform")
    if value is None or value == []:
        return None
    if isinstance(fields.values.get("target_modules"), str):
        raise fields.error(
            "layers_to_transform", "goes with a list of target_modules only; put it into their expression"
        )
    numbers = value if isinstance(value, list) else [value]
    if not all(isinstance(number, int) and not isinstance(number, bool) for number in numbers):
        raise fields.error("layers_to_transform", "must be a layer's number or a list of them")
    return frozenset(numbers)


def _layers_patterns(fields: Fields) -> tuple[str, ...]:
    value = fields.values.get("layers_pattern")
    patterns = (value,) if isinstance(value, str) and value else tuple(fields.texts("layers_pattern") if value else ())
    for pattern in patterns:
        _check_expression(fields, "layers_pattern", pattern, _LAYER_OF)
    return patterns


def _check_expression(fields: Fields, key: str, expression: str, form: str = "{}") -> None:
    try:
        re.compile(form.format(expression))
    except (re.error, OverflowError, RecursionError) as error:
        raise fields.error(key, f"has {expression!r}, which is no regular expression ({error})") from error


def _matches(modules: tuple[str, ...] | str, module: str) -> bool:
    if isinstance(modules, str):
        return bool(modules) and re.fullmatch(modules, module) is not None
    return any(module == name or module.endswith(f".{name}") for name in modules)


def _of_pattern(pattern: Mapping[str, float], module: str, default: float) -> float:
    """The value of the first expression that an end of the name fits."""
    return next((value for key, value in pattern.items() if re.match(_END_OF.format(key), module)), default)
