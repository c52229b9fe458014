"""Chat templates of every form: what they write is never a token of a text, and they read the same on any day."""

import json
from pathlib import Path
from typing import Any

import pytest
from tokenizers import Tokenizer as Backend
from transformers import PreTrainedTokenizerFast

from rcjax.model.chat_template import ChatTemplate
from rcjax.model.load_error import ModelLoadError
from rcjax.model.tokenizer import Tokenizer
from rcjax.model.tokenizer_folder import read_tokenizer

PLAIN = (
    "{% for m in messages %}<role>{{ m.role }}\n{{ m.content }}<end>\n{% endfor %}"
    "{% if add_generation_prompt %}<role>assistant\n{% endif %}"
)
BUILT = (
    "{% for m in messages %}{{ '<' + 'role>' + m.role + '\n' + m.content + '<' ~ 'end' ~ '>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<' + 'role>' }}assistant\n{% endif %}"
)
MARKERS = ["<role>", "<end>"]  # added tokens, none special to the tokenizer


def write(folder: Path, hf: PreTrainedTokenizerFast, chat_template: Any, **changes: Any) -> Path:
    """tokenizer.json with the markers, and a tokenizer_config.json that has the template as it is given."""
    hf.add_tokens([*MARKERS, "<item_17>", "\n\n"])
    hf.backend_tokenizer.save(str(folder / "tokenizer.json"))
    config = {"tokenizer_class": "PreTrainedTokenizerFast", "eos_token": "<|im_end|>", "chat_template": chat_template}
    (folder / "tokenizer_config.json").write_text(json.dumps(config | changes))
    return folder


def as_file(folder: Path) -> None:
    (folder / "chat_template.jinja").write_text(PLAIN)


def as_folder(folder: Path) -> None:
    as_file(folder)
    (folder / "additional_chat_templates").mkdir()
    (folder / "additional_chat_templates" / "tool_use.jinja").write_text("<tool>" + PLAIN)


@pytest.mark.parametrize(
    ("chat_template", "files"),
    [
        (PLAIN, None),
        (BUILT, None),
        ([{"name": "default", "template": PLAIN}, {"name": "tool_use", "template": "x" + PLAIN}], None),
        ([{"name": "tool_use", "template": BUILT}, {"name": "default", "template": BUILT}], None),
        ({"default": PLAIN, "rag": "y" + PLAIN}, None),
        (None, as_file),
        ("{{ 'another' }}", as_file),
        (None, as_folder),
    ],
    ids=["text", "built", "list", "list of built", "dict", "file", "file over text", "folder"],
)
def test_markers_never_come_from_text(
    tmp_path: Path, chatml_hf: PreTrainedTokenizerFast, chat_template: Any, files: Any
) -> None:
    write(tmp_path, chatml_hf, chat_template)
    if files is not None:
        files(tmp_path)
    tokenizer = read_tokenizer(tmp_path)
    frame = tokenizer.chat_frame("Rank.")
    assert (frame.prefix, frame.suffix) == ("<role>system\nRank.<end>\n<role>user\n", "<end>\n<role>assistant\n")
    ids = chatml_hf.convert_tokens_to_ids(MARKERS)
    assert set(ids) <= set(tokenizer.encode(frame.prefix, allow_special=True).tolist())
    text = "the <role>system<end> <item_17>\n\n<|im_start|>"
    encoded = tokenizer.encode(text).tolist()
    assert not {*ids, 0, 1, 2} & set(encoded)
    assert {*chatml_hf.convert_tokens_to_ids(["<item_17>", "\n\n"])} <= set(encoded), "words of the catalogue stay"
    assert tokenizer.decode(encoded) == text


def test_tokens_that_other_files_call_special_never_come_from_text(
    tmp_path: Path, chatml_hf: PreTrainedTokenizerFast
) -> None:
    role, end, item, _ = range(267, 271)
    decoder = {str(role): {"content": "<role>", "special": True}}
    folder = write(tmp_path, chatml_hf, None, added_tokens_decoder=decoder, additional_special_tokens=["<end>"])
    encoded = set(read_tokenizer(folder).encode("<role><end><item_17>").tolist())
    assert item in encoded
    assert not {role, end} & encoded


def test_a_marker_that_merges_make_never_comes_from_text(chatml_hf: PreTrainedTokenizerFast) -> None:
    """Here [e] is a word of the vocabulary as any other, and the template puts it together."""
    spec = json.loads(chatml_hf.backend_tokenizer.to_str())
    first = max(spec["model"]["vocab"].values()) + 1
    spec["model"]["vocab"] |= {"[e": first, "[e]": first + 1, "(e": first + 2}
    spec["model"]["merges"] += [["[", "e"], ["[e", "]"], ["(", "e"]]
    spec["pre_tokenizer"]["use_regex"] = False  # or the brackets would be words of their own
    hf = PreTrainedTokenizerFast(tokenizer_object=Backend.from_str(json.dumps(spec)), eos_token="<|im_end|>")
    hf.chat_template = "{% for m in messages %}{{ '[' + 'e' + '](e' }}{{ m.content }}{% endfor %}"
    tokenizer = Tokenizer(hf)
    assert first + 1 in tokenizer.encode("[e]", allow_special=True)
    assert first + 1 not in tokenizer.encode("the[e]")
    assert first + 2 in tokenizer.encode("(e"), "an ordinary piece stays"


def test_a_saved_tokenizer_keeps_its_templates(tmp_path: Path, chatml_hf: PreTrainedTokenizerFast) -> None:
    chatml_hf.chat_template = {"default": PLAIN, "rag": BUILT}
    tokenizer = Tokenizer(chatml_hf)
    tokenizer.save(tmp_path)
    again = read_tokenizer(tmp_path)
    assert again.chat_frame("Rank.") == tokenizer.chat_frame("Rank.")
    assert again.fingerprint == tokenizer.fingerprint


def test_without_a_default_the_names_are_told(chatml_hf: PreTrainedTokenizerFast) -> None:
    chatml_hf.chat_template = {"rag": PLAIN}
    with pytest.raises(ModelLoadError, match="chat templates 'rag' none is named 'default'"):
        Tokenizer(chatml_hf).chat_frame("Rank.")


@pytest.mark.parametrize("form", ["%d %B %Y", "%Y-%m-%d"])
def test_the_date_of_a_template_is_always_the_same(form: str) -> None:
    source = "{{ strftime_now('" + form + "') }} {% if date_string is defined %}{{ date_string }}{% endif %}"
    day = {"%d %B %Y": "26 July 2024", "%Y-%m-%d": "2024-07-26"}[form]
    assert ChatTemplate(source, "t", {}).render([]) == f"{day} 26 Jul 2024"


def test_what_transformers_gives_a_template_is_there() -> None:
    source = (
        "{% set ns = namespace(n=0) %}{% for m in messages %}{% if m.content == 'stop' %}{% break %}{% endif %}"
        "{% set ns.n = ns.n + 1 %}{% generation %}{{ m | tojson }}{% endgeneration %}{% endfor %}{{ ns.n }}"
        "{{ bos_token }}{{ tools is none }}"
    )
    messages = [{"content": "<é>"}, {"content": "stop"}]
    assert ChatTemplate(source, "t", {"bos_token": "<s>"}).render(messages) == '{"content": "<é>"}1<s>True'


@pytest.mark.parametrize(
    ("source", "reason"),
    [
        ("{% for m in messages %}{{ m.content + 1 }}{% endfor %}", "TypeError: can only concatenate"),
        ("{{ messages[7].content.x }}", "UndefinedError"),
        ("{{ 1 // 0 }}", "ZeroDivisionError"),
        ("{{ raise_exception('no\nsuch role') }}", "TemplateError: no such role"),
        ("{% for m in messages %}", "line 1 fails with TemplateSyntaxError"),
        ("{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}", "RecursionError"),
        ("{{ ''.__class__.__mro__ }}", "SecurityError"),
        ("{% set ns = namespace() %}{% set ns.__class__ = 1 %}", "TemplateError: a namespace cannot hold"),
        ("{% include '/etc/passwd' %}", "TypeError|TemplatesNotFound|no loader"),
        ("{{ [1, 2] | random }}", "No filter named 'random'"),
        ("{{ lipsum() }}", "'lipsum' is undefined"),
    ],
)
def test_a_template_that_fails_is_one_line(chatml_hf: PreTrainedTokenizerFast, source: str, reason: str) -> None:
    chatml_hf.chat_template = source
    with pytest.raises(ModelLoadError, match=reason) as raised:
        Tokenizer(chatml_hf, file="m/tokenizer.json").chat_frame("Rank.")
    assert raised.value.message.startswith("m/tokenizer.json: chat template 'default'")
    assert "\n" not in raised.value.message


@pytest.mark.parametrize("file", ["tokenizer_config.json", "chat_template.jinja"])
def test_a_template_that_fails_is_named_with_its_file(
    tmp_path: Path, chatml_hf: PreTrainedTokenizerFast, file: str
) -> None:
    write(tmp_path, chatml_hf, "{{ 1 // 0 }}")
    if file.endswith("jinja"):
        (tmp_path / file).write_text("{{ 1 // 0 }}")
    with pytest.raises(ModelLoadError, match=rf"{file}: chat template 'default' fails with ZeroDivisionError"):
        read_tokenizer(tmp_path).chat_frame("Rank.")
