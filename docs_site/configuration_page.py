"""The page of all settings, from the pydantic models that read them."""

import inspect
import re
from collections.abc import Iterator
from dataclasses import dataclass
from enum import Enum
from functools import cache
from pathlib import Path
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin

import griffe
from pydantic import BaseModel, ByteSize
from repository import ROOT, with_links_to_pages
from tables import table

PAGE = "reference/configuration.md"

_INTRODUCTION = """# Configuration

A settings file is YAML; `rcjax serve --config FILE` and the other commands read it. Every key may be left out unless it
is said to be required. Keys that are not known, and values that are not allowed, are errors that name file, line and
field. A relative path starts at the settings' file, and `~` is a home directory. A size is a number of bytes, or a text
such as `512MiB` or `10GB`. What is None in Python is `null` in YAML.
"""
_SCALARS = {str: "text", int: "integer", float: "number", bool: "`true` or `false`", Path: "path", ByteSize: "size"}
_LIMITS = {"ge": "at least {}", "gt": "over {}", "le": "at most {}", "lt": "below {}", "min_length": "{} or longer"}


@dataclass(frozen=True)
class Section:
    """Settings of one model, and the keys that lead to it; `NAME` and `[]` stand for a name and a place in a list."""

    path: str
    model: type[BaseModel]

    @property
    def anchor(self) -> str:
        return f"{self.path or 'top-level'}-settings"

    def path_of(self, field: str) -> str:
        return f"{self.path}.{field}" if self.path else field


def sections(root: type[BaseModel]) -> list[Section]:
    """Each model once, where it is first met from `root`."""
    found: dict[type[BaseModel], Section] = {}

    def visit(path: str, model: type[BaseModel]) -> None:
        if model in found:
            return
        found[model] = here = Section(path, model)
        for name, field in model.model_fields.items():
            for below, inner in _models(field.annotation):
                visit(here.path_of(name) + below, inner)

    visit("", root)
    return list(found.values())


def configuration_page(root: type[BaseModel], sample: str) -> str:
    """Markdown: a table for each model, and `sample`, a file that spells out the defaults."""
    found = sections(root)
    anchors = {section.model: section.anchor for section in found}
    tables = [_section(section, anchors) for section in found]
    return "\n".join([_INTRODUCTION, *tables, f"## The defaults, as a file\n\n```yaml\n{sample}```\n"])


def _section(section: Section, anchors: dict[type[BaseModel], str]) -> str:
    rows = []
    defaults: dict[str, Any] = {}
    for name, field in section.model.model_fields.items():
        if not field.is_required():
            defaults[name] = field.get_default(call_default_factory=True, validated_data=defaults)
        kind = _type(field.annotation, anchors)
        limits = ", ".join(_limits(field.metadata, field.annotation))
        words = _words(section.model, name)
        default = _default(defaults[name]) if name in defaults else "required"
        rows.append(
            (f"`{name}`{{ #{section.path_of(name)} }}", f"{kind}, {limits}" if limits else kind, default, words)
        )
    title = f"`{section.path}`" if section.path else "Top level"
    about = with_links_to_pages(inspect.getdoc(section.model) or "", PAGE)
    head = ("key", "value", "default", "meaning")
    if not any(words for *_, words in rows):
        head, rows = head[:3], [row[:3] for row in rows]
    return f"## {title} {{ #{section.anchor} }}\n\n{about}\n\n{table(head, rows)}"


def _models(annotation: Any) -> Iterator[tuple[str, type[BaseModel]]]:
    """Models in an annotation, each with what a path to it has behind the field's name."""
    if inspect.isclass(annotation) and issubclass(annotation, BaseModel):
        yield "", annotation
        return
    suffix = {dict: ".NAME", tuple: "[]"}.get(get_origin(annotation), "")
    for inner in get_args(annotation):
        for below, model in _models(inner):
            yield suffix + below, model


def _type(annotation: Any, anchors: dict[type[BaseModel], str]) -> str:
    origin, inner = get_origin(annotation), get_args(annotation)
    if annotation is NoneType:
        return "`null`"
    if annotation in _SCALARS:
        return _SCALARS[annotation]
    if origin is Literal:
        return _one_of(inner)
    if origin is Annotated:
        return ", ".join(
            [_type(inner[0], anchors), *(limit for field in inner[1:] for limit in _limits(field.metadata, inner[0]))]
        )
    if origin in (Union, UnionType):
        return " or ".join(_type(each, anchors) for each in inner)
    if origin is tuple and inner[1:] == (...,):
        return f"list of {_type(inner[0], anchors)}"
    if origin is dict and inner[0] is str:
        return f"by name: {_type(inner[1], anchors)}"
    if issubclass(annotation, Enum):
        return _one_of(tuple(each.value for each in annotation))
    if issubclass(annotation, BaseModel):
        return f"[these keys](#{anchors[annotation]})"
    raise ValueError(f"{annotation} is of no kind that this page has words for; give it some here")


def _one_of(values: tuple[Any, ...]) -> str:
    return ", ".join(f"`{value}`" for value in values)


def _limits(metadata: list[Any], annotation: Any) -> Iterator[str]:
    for each in metadata:
        if pattern := getattr(each, "pattern", None):
            yield f"matching `{pattern}`"
        elif getattr(each, "allow_inf_nan", None) is False:
            yield "finite"
        elif words := [text.format(getattr(each, name)) for name, text in _LIMITS.items() if hasattr(each, name)]:
            yield from words
        else:
            raise ValueError(
                f"{each} of {annotation} is a constraint that this page has no words for; give it some here"
            )


def _default(value: Any) -> str:
    if isinstance(value, BaseModel):
        return ""  # each of its keys has one
    return "[as below](#the-defaults-as-a-file)" if isinstance(value, dict | tuple) and value else f"`{_yaml(value)}`"


def _yaml(value: Any) -> str:
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    if isinstance(value, ByteSize) and value:
        return value.human_readable().replace(".0", "")
    if isinstance(value, tuple):
        return "[]"
    return str(value.value if isinstance(value, Enum) else value)


def _words(model: type[BaseModel], field: str) -> str:
    """The docstring below a field, else the first sentence about the keys that it has, if it has any."""
    parts = model.__module__.removeprefix("rcjax.config.").split(".")
    docstring = _config()[".".join([*parts, model.__name__])].members[field].docstring
    if docstring is not None:
        return with_links_to_pages(docstring.value, PAGE)
    inner = [each for below, each in _models(model.model_fields[field].annotation) if not below]
    return with_links_to_pages(re.split(r"(?<=\.)\s", inspect.getdoc(inner[0]) or "")[0], PAGE) if inner else ""


@cache
def _config() -> griffe.Object | griffe.Alias:
    return griffe.load("rcjax.config", search_paths=[ROOT])
