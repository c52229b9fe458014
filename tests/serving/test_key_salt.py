"""The salt of keys: from its file into every key, and nowhere else."""

import sys
from dataclasses import asdict
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[1] / "engine"))

from tiny_engine import tiny_model, tiny_settings

from rcjax.cache import as_token_ids
from rcjax.prompt import Owner, PromptBuilder
from rcjax.prompt.template import load_template
from rcjax.serving.security.salt import read_salt
from rcjax.serving.slices import slice_parts
from rcjax.serving.startup import engine_info

SALT = b"0123456789abcdef\n"


def test_no_file_is_no_salt() -> None:
    assert read_salt(None) == b""


@pytest.mark.parametrize("content", [b"", b"0123456789abcde"])
def test_a_short_salt_is_refused_without_telling_it(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "salt"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=rf"^server.key_salt_file: {path} has {len(content)} bytes; .* 16 ") as caught:
        read_salt(path)
    assert not content or content.decode() not in str(caught.value)


def test_a_file_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=f"^server.key_salt_file: cannot read {tmp_path}/none: No such file"):
        read_salt(tmp_path / "none")


def test_it_is_in_every_key_and_in_nothing_that_a_server_tells(tmp_path: Path) -> None:
    settings = tiny_settings(tmp_path)
    (tmp_path / "salt").write_bytes(SALT)
    server = settings.server.model_copy(update={"key_salt_file": tmp_path / "salt"})
    model = tiny_model()
    builder = PromptBuilder(load_template(settings.template), model.tokenizer, settings.limits.max_candidates)
    all_settings = (settings, settings.model_copy(update={"server": server}))
    plain, salted = (slice_parts(one, model, builder, lambda step: None).keys for one in all_settings)
    assert plain.instruction != salted.instruction
    item = ("item", Owner("", "i1"), as_token_ids([1, 2]))
    assert plain.key(*item) != salted.key(*item)
    assert (plain.identity.key_salt, len(salted.identity.key_salt)) == ("", 16)
    told = f"{asdict(salted.identity)} {engine_info(all_settings[1], model, builder)}"
    assert SALT.decode().strip() not in told
    assert SALT.hex() not in told
