"""Chat templates: rendered in a sandbox, the same on every day, with every failure on one line."""

import json
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any

import jinja2
import jinja2.ext
import jinja2.nodes
import jinja2.sandbox
import jinja2.utils

from rcjax.model.fields import first_line
from rcjax.model.load_error import ModelLoadError

# Templates of Llama 3 print a date and those of Qwen3 open a chain of thought unless told otherwise. A prompt must
# not change overnight (its cached blocks would not be found), and a ranking is read from the first token.
_DAY = datetime(2024, 7, 26)
_ARGUMENTS: dict[str, Any] = {
    "date_string": _DAY.strftime("%d %b %Y"),
    "enable_thinking": False,
    "tools": None,
    "documents": None,
}

Messages = Sequence[Mapping[str, str]]


class ChatTemplate:
    """One template of a checkpoint. It is a program: it runs in Jinja's sandbox, which has no files and no imports.

    `strftime_now` tells the same moment always. Jinja's sources of chance (the filter `random`, the function `lipsum`)
    are not there, so that a template that uses them is refused by their name.
    """

    def __init__(self, source: str, name: str, variables: Mapping[str, str]):
        """`name` is what errors call it; `variables` are the special tokens (`bos_token`, ...)."""
        self.source = source
        self._name = name
        self._variables = dict(variables)
        try:
            self._template = _environment().from_string(source)
        except Exception as error:  # the template is a program of the checkpoint: it may fail in any way
            raise self._error(error) from error

    def render(self, messages: Messages, *, add_generation_prompt: bool = True) -> str:
        """The text of a conversation; ModelLoadError where the template fails."""
        arguments = _ARGUMENTS | self._variables
        try:
            return self._template.render(
                messages=[dict(message) for message in messages],
                add_generation_prompt=add_generation_prompt,
                **arguments,
            )
        except Exception as error:
            raise self._error(error) from error

    def _error(self, error: Exception) -> ModelLoadError:
        line = f", line {error.lineno}" if isinstance(error, jinja2.TemplateSyntaxError) else ""
        return ModelLoadError(
            f"{self._name}{line} fails with {type(error).__name__}: {first_line(error)}; give the checkpoint a chat "
            "template that renders a system and a user message, or none"
        )


def _environment() -> jinja2.sandbox.ImmutableSandboxedEnvironment:
    """What transformers gives a chat template, less what depends on the clock or on chance."""
    environment = jinja2.sandbox.ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=[_GenerationBlock, jinja2.ext.loopcontrols]
    )
    environment.filters["tojson"] = _to_json
    environment.globals["raise_exception"] = _raise_exception
    environment.globals["strftime_now"] = _DAY.strftime
    environment.globals["namespace"] = _Namespace
    del environment.filters["random"]
    del environment.globals["lipsum"]
    return environment


def _raise_exception(message: object) -> None:
    raise jinja2.TemplateError(str(message))


def _to_json(
    value: Any,
    ensure_ascii: bool = False,
    indent: int | None = None,
    separators: tuple[str, str] | None = None,
    sort_keys: bool = False,
) -> str:
    """JSON without Jinja's escapes for HTML."""
    return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)


class _Namespace(jinja2.utils.Namespace):
    """Jinja's namespace, closed to names that lead to Python's internals."""

    def __setitem__(self, name: str, value: Any) -> None:
        if name.startswith("_"):
            raise jinja2.TemplateError(f"a namespace cannot hold {name!r}")
        super().__setitem__(name, value)


class _GenerationBlock(jinja2.ext.Extension):
    """`{% generation %}` marks the assistant's text for training in some templates; it writes what it encloses."""

    tags = {"generation"}  # noqa: RUF012 - Jinja declares it as an instance's

    def parse(self, parser: Any) -> Any:
        line = next(parser.stream).lineno
        body = parser.parse_statements(("name:endgeneration",), drop_needle=True)
        return jinja2.nodes.Scope(body, lineno=line)
