import hashlib
import struct
from dataclasses import fields, replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rcjax.cache import PoolIdentity, as_token_ids, block_key

IDENTITY = PoolIdentity("model", "tokenizer", "template", "float32", 16)


def test_a_key_is_the_sha256_of_length_prefixed_fields():
    # Written out: snapshots hold keys, so another framing needs another format tag.
    expected = hashlib.sha256(
        b"\x0d" + b"\0" * 7 + b"rcjax.block.1"
        b"\x05" + b"\0" * 7 + b"model"
        b"\x09" + b"\0" * 7 + b"tokenizer"
        b"\x08" + b"\0" * 7 + b"template"
        b"\x07" + b"\0" * 7 + b"float32"
        b"\x08" + b"\0" * 7 + b"\x10" + b"\0" * 7 + b"\x04" + b"\0" * 7 + b"item"
        b"\x02" + b"\0" * 7 + b"\xc3\xa9"
        b"\x03" + b"\0" * 7 + b"abc"
        b"\x08" + b"\0" * 7 + struct.pack("<ii", 1, 300)
    ).digest()
    assert block_key(IDENTITY, "item", "é", b"abc", [1, 300]) == expected


@pytest.mark.parametrize("field", [field.name for field in fields(PoolIdentity)])
def test_every_part_of_the_identity_counts(field):
    other = 32 if field == "page_tokens" else "other"
    assert block_key(replace(IDENTITY, **{field: other}), "item", "a", b"", [1]) != block_key(
        IDENTITY, "item", "a", b"", [1]
    )


# Few characters, so that moving one from a field to the next is tried often.
texts = st.text("ab\0", max_size=3)
inputs = st.tuples(
    st.builds(PoolIdentity, texts, texts, texts, texts, st.integers(1, 2)),
    texts,
    texts,
    st.binary(max_size=3),
    st.lists(st.integers(0, 2), max_size=3),
)


@given(inputs, inputs)
def test_keys_are_equal_only_for_equal_inputs(one, other):
    assert (block_key(*one) == block_key(*other)) == (one == other)


@given(st.lists(texts, min_size=2, max_size=2), st.integers(1, 6))
def test_text_moved_between_neighbouring_fields_changes_the_key(pair, at):
    joined = "".join(pair)
    moved = (joined[:at], joined[at:])
    same = tuple(pair) == moved
    for build in (
        lambda a, b: block_key(replace(IDENTITY, model_fingerprint=a, tokenizer_fingerprint=b), "", "", b"", []),
        lambda a, b: block_key(replace(IDENTITY, template_version=a, kv_dtype=b), "", "", b"", []),
        lambda a, b: block_key(IDENTITY, a, b, b"", []),
        lambda a, b: block_key(IDENTITY, "", a, b.encode(), []),
    ):
        assert (build(*pair) == build(*moved)) == same


def test_a_parents_bytes_are_not_token_ids():
    assert block_key(IDENTITY, "item", "a", struct.pack("<i", 7), []) != block_key(IDENTITY, "item", "a", b"", [7])


@pytest.mark.parametrize("dtype", [np.int32, np.int64, np.uint8, ">i4"])
def test_the_dtype_that_tokens_come_in_does_not_matter(dtype):
    assert block_key(IDENTITY, "item", "a", b"", np.array([1, 2], dtype)) == block_key(
        IDENTITY, "item", "a", b"", [1, 2]
    )


def test_token_ids_are_a_read_only_copy():
    source = np.array([1, 2], np.int32)
    ids = as_token_ids(source)
    source[0] = 9
    assert ids.tolist() == [1, 2]
    assert ids.dtype == np.int32
    with pytest.raises(ValueError, match="read-only"):
        ids[0] = 3


@pytest.mark.parametrize("bad", [[2**31], [-(2**31) - 1], np.array([2**40])])
def test_token_ids_that_do_not_fit_are_refused_not_wrapped(bad):
    with pytest.raises(ValueError, match="must fit int32"):
        as_token_ids(bad)
