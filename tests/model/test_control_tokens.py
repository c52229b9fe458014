"""Each of the rules by which a token is one that no text may become, by itself."""

import pytest

from rcjax.model.chat_template import ChatTemplate
from rcjax.model.control_tokens import control_tokens

VOCAB = (
    "a",
    "user",
    "<s>",
    "<b>",
    "[INST]",
    "<|plain|>",
    "<\N{FULLWIDTH VERTICAL LINE}wide\N{FULLWIDTH VERTICAL LINE}>",
)
ADDED = {"<unused>": True, "<|tool|>": False, "<item_17>": False, "<item_18>": False, "  ": False}
SPEC = {
    "model": {"vocab": {token: i for i, token in enumerate(VOCAB)}},
    "added_tokens": [{"content": token, "special": special} for token, special in ADDED.items()],
}
ALWAYS = {"<unused>", "<|tool|>", "<|plain|>", VOCAB[-1]}  # special, or markers, wherever they are


@pytest.mark.parametrize(
    ("named", "template", "more"),
    [
        ([], None, set()),
        (["<s>", "<item_18>", "absent"], None, {"<s>", "<item_18>"}),
        # a template's words are words, its brackets are not; an added token is what it writes
        ([], "user a  [INST]{{ messages[0].content }}<item_17>", {"[INST]", "<item_17>"}),
        ([], "{{ '<' + 'b>' }}", {"<b>"}),
    ],
)
def test_what_is_a_control_token(named, template, more):
    templates = [] if template is None else [ChatTemplate(template, "t", {})]
    assert control_tokens(SPEC, named, templates) == ALWAYS | more
