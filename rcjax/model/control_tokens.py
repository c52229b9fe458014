"""Which tokens of a tokenizer steer the model, so that no text of users or items may become one."""

import re
from collections.abc import Iterable, Sequence
from typing import Any

from rcjax.model.chat_template import ChatTemplate, Messages
from rcjax.model.load_error import ModelLoadError

_TEXT = "\N{WHITE SQUARE}text\N{WHITE SQUARE}"  # stands for what people write while a template renders
_MARKER = re.compile(r"<[|\N{FULLWIDTH VERTICAL LINE}][^\s<>]+[|\N{FULLWIDTH VERTICAL LINE}]>")

_BRACKETED = re.compile(r"[<\[]\S*\w\S*[>\]]")


def control_tokens(spec: dict[str, Any], named: Iterable[str], templates: Sequence[ChatTemplate]) -> set[str]:
    """The special tokens, those `named` in other files, those in the shape <|...|>, and those that a template writes.

    Templates are read as text and rendered, as they may put a marker together from parts. An added token that is none
    of these is a word of the catalogue (<item_17>) and stays; so does one of white space only. Of the tokens that are
    not added, a template's are those in brackets: it writes plain words ("user") too.
    """
    vocab = spec["model"]["vocab"]
    added = {token["content"] for token in spec["added_tokens"]}
    control = {token["content"] for token in spec["added_tokens"] if token["special"]}
    control |= {token for token in named if token in added or token in vocab}
    control |= {token for token in (*vocab, *added) if _MARKER.fullmatch(token)}
    rendered = [text for template in templates for text in _renderings(template)]
    control |= {token for token in vocab if _BRACKETED.fullmatch(token) and any(token in text for text in rendered)}
    written = [*(template.source for template in templates), *rendered]
    return control | {token for token in added if token.strip() and any(token in text for text in written)}


def _renderings(template: ChatTemplate) -> Iterable[str]:
    """What the template writes around the texts of conversations of every kind that it takes."""
    for roles in (
        ("system", "user"),
        ("user",),
        ("system", "user", "assistant", "user"),
        ("developer", "user"),
        ("user", "assistant", "tool", "assistant"),
    ):
        messages: Messages = [{"role": role, "content": _TEXT} for role in roles]
        for add_generation_prompt in (True, False):
            try:
                yield template.render(messages, add_generation_prompt=add_generation_prompt).replace(_TEXT, "")
            except ModelLoadError:  # it takes no such conversation
                continue
