"""A tokenizer from the files of a Hugging Face folder; tokenizer.json alone says what ids a text has."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import tokenizers
from tokenizers import processors

from rcjax.model.fields import Fields, first_line, read_json, read_text, shown
from rcjax.model.load_error import ModelLoadError
from rcjax.model.tokenizer import Tokenizer

_TEMPLATE_FILE, _TEMPLATE_FOLDER = "chat_template.jinja", "additional_chat_templates"
_NAMES = ("bos_token", "eos_token", "unk_token", "pad_token")
# Classes of transformers, without "Fast", whose ids are those of tokenizer.json. A class that is none of them may be
# code that comes with a checkpoint.
_CLASSES = (
    "PreTrainedTokenizer", "TokenizersBackend", "LlamaTokenizer", "CodeLlamaTokenizer", "MistralTokenizer",
    "MistralCommonBackend", "MistralCommonTokenizer", "Qwen2Tokenizer", "Qwen3Tokenizer", "GPT2Tokenizer",
    "GPTNeoXTokenizer", "CodeGenTokenizer", "RobertaTokenizer", "BartTokenizer", "BloomTokenizer", "GemmaTokenizer",
    "CohereTokenizer",
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class LoadedTokenizer:
    """The parts of a tokenizer that were read from files."""

    backend_tokenizer: tokenizers.Tokenizer
    chat_template: Mapping[str, str]
    bos_token: str | None = None
    eos_token: str | None = None
    unk_token: str | None = None
    pad_token: str | None = None


def read_tokenizer(folder: Path) -> Tokenizer:
    """Reads tokenizer.json, the names and chat templates beside it, and the EOS ids of the generation config.

    Nothing of the folder is run but its chat templates, in a sandbox. Raises ModelLoadError.
    """
    path = folder / "tokenizer.json"
    if not path.exists():
        raise ModelLoadError(
            f"{folder} holds no tokenizer.json; save it with AutoTokenizer.from_pretrained(FOLDER).save_pretrained"
            "(FOLDER) of transformers"
        )
    config = _optional(folder / "tokenizer_config.json")
    refuse_code(config)
    _refuse_class(config)
    backend = _read_backend(path)
    names = _names(config, _optional(folder / "special_tokens_map.json"), backend)
    _set_bos(backend, config, names.get("bos_token"))
    special = _added_tokens(config, backend, path)
    parts = LoadedTokenizer(backend, _chat_templates(folder, config), **names)
    has_file = (folder / _TEMPLATE_FILE).exists() or (folder / _TEMPLATE_FOLDER).exists()
    template_file = str(folder / _TEMPLATE_FILE) if has_file else config.file
    return Tokenizer(parts, eos_ids=_eos_ids(folder), special=special, file=str(path), template_file=template_file)


def refuse_code(config: Fields) -> None:
    """Refuses a file that names Python code of the checkpoint, which is never run."""
    if config.has("auto_map"):
        raise ModelLoadError(
            f"{config.file}: auto_map={shown(config.values['auto_map'])} names code of the checkpoint, which is never "
            "run; use a checkpoint of a supported architecture without it"
        )


def _optional(path: Path) -> Fields:
    return read_json(path) if path.exists() else Fields({}, str(path))


def _refuse_class(config: Fields) -> None:
    name = config.text("tokenizer_class", "PreTrainedTokenizerFast")
    if name.removesuffix("Fast") not in _CLASSES:
        raise ModelLoadError(
            f"{config.file}: tokenizer_class={shown(name)} is not known, so tokenizer.json may not have its ids; if it "
            'has, set tokenizer_class to "PreTrainedTokenizerFast"'
        )


def _read_backend(path: Path) -> tokenizers.Tokenizer:
    try:
        backend = tokenizers.Tokenizer.from_str(read_text(path))
    except ModelLoadError:
        raise
    except Exception as error:  # the library raises bare Exceptions
        raise ModelLoadError(
            f"{path}: the tokenizers library {tokenizers.__version__} cannot read it: {first_line(error)}; save it "
            "again with a version that both know"
        ) from error
    backend.no_truncation()
    backend.no_padding()
    return backend


def _names(config: Fields, special_tokens_map: Fields, backend: tokenizers.Tokenizer) -> dict[str, str]:
    """The special tokens that the files name; a padding token that is no token is never needed, and left out."""
    names = {}
    for key in _NAMES:
        fields = config if config.has(key) else special_tokens_map
        if not fields.has(key):
            continue
        name = _content(fields, key)
        if backend.token_to_id(name) is not None:
            names[key] = name
        elif key != "pad_token":
            raise fields.error(key, "is no token of tokenizer.json; save both again together")
    return names


def _content(fields: Fields, key: str) -> str:
    """A token's text, which may stand in an object with its properties."""
    if isinstance(fields.values[key], Mapping):
        return fields.object(key).text("content")
    return fields.text(key)


def _set_bos(backend: tokenizers.Tokenizer, config: Fields, bos: str | None) -> None:
    """Lets an explicit `add_bos_token` decide, as in transformers, whether texts begin with BOS."""
    if not config.has("add_bos_token") or bos is None:
        return
    wanted, bos_id = config.flag("add_bos_token"), backend.token_to_id(bos)
    if wanted == (backend.encode("a").ids[:1] == [bos_id]):
        return
    backend.post_processor = processors.TemplateProcessing(
        single=[bos, "$A"] if wanted else ["$A"], special_tokens=[(bos, bos_id)] if wanted else []
    )


def _added_tokens(config: Fields, backend: tokenizers.Tokenizer, path: Path) -> set[str]:
    """The tokens that tokenizer_config.json calls special; those it has and tokenizer.json has not are an error."""
    special = set()
    entries = config.object("added_tokens_decoder")
    for token_id in entries.values:
        entry = entries.object(token_id)
        content = entry.text("content")
        if str(backend.token_to_id(content)) != token_id:
            raise entry.error("content", f"must be token {token_id} of {path}; save both again together")
        if entry.flag("special", False):
            special.add(content)
    for key in ("additional_special_tokens", "extra_special_tokens"):
        if isinstance(config.values.get(key), Mapping):
            special |= {_content(config.object(key), name) for name in config.values[key]}
        elif isinstance(config.values.get(key), list):
            listed = Fields({f"{key}[{i}]": token for i, token in enumerate(config.values[key])}, config.file)
            special |= {_content(listed, name) for name in listed.values}
    return special


def _chat_templates(folder: Path, config: Fields) -> dict[str, str]:
    """Templates by name: files win over tokenizer_config.json, as in transformers."""
    files = {"default": folder / _TEMPLATE_FILE} if (folder / _TEMPLATE_FILE).exists() else {}
    files |= {path.stem: path for path in sorted((folder / _TEMPLATE_FOLDER).glob("*.jinja"))}
    if files:
        return {name: read_text(path) for name, path in files.items()}
    given = config.values.get("chat_template")
    if isinstance(given, list):
        entries = [Fields({"entry": entry}, f"{config.file}: chat_template").object("entry") for entry in given]
        return {entry.text("name"): entry.text("template") for entry in entries}
    if isinstance(given, Mapping):
        templates = config.object("chat_template")
        return {name: templates.text(name) for name in given}
    return {"default": config.text("chat_template")} if given else {}


def _eos_ids(folder: Path) -> set[int]:
    """The ids that end a text, from both files that may name them."""
    return {
        token_id
        for name in ("config.json", "generation_config.json")
        for token_id in _ids(_optional(folder / name), "eos_token_id")
    }


def _ids(fields: Fields, key: str) -> Iterable[int]:
    given: Any = fields.values.get(key)
    if not isinstance(given, list):
        return [fields.integer(key, minimum=0)] if fields.has(key) else []
    listed = Fields({f"{key}[{i}]": token_id for i, token_id in enumerate(given)}, fields.file)
    return [listed.integer(name, minimum=0) for name in listed.values]
