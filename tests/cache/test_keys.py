import hashlib
import struct
from concurrent.futures import ThreadPoolExecutor
from dataclasses import fields, replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rcjax.cache import BlockKeys, PoolIdentity, as_token_ids
from rcjax.prompt import NOBODY, Owner

IDENTITY = PoolIdentity("model", "tokenizer", "template", "float32", 16)


def key(identity=IDENTITY, instruction=(1, 2), kind="item", owner=("", "a", ""), token_ids=(7,), salt=b""):
    return BlockKeys(identity, instruction, salt).key(kind, Owner(*owner), as_token_ids(token_ids))


def framed(*values):
    return b"".join(struct.pack("<q", len(value)) + value for value in values)


def test_a_key_is_the_sha256_of_length_prefixed_fields():
    # Written out: snapshots hold keys, so another framing needs another format tag.
    common = (
        b"\x0d" + b"\0" * 7 + b"rcjax.block.4"
        b"\x04" + b"\0" * 7 + b"salt"
        b"\x05" + b"\0" * 7 + b"model"
        b"\x09" + b"\0" * 7 + b"tokenizer"
        b"\x08" + b"\0" * 7 + b"template"
        b"\x07" + b"\0" * 7 + b"float32"
        b"\x08" + b"\0" * 7 + b"\x10" + b"\0" * 7
    )
    instruction = hashlib.sha256(common + framed(b"", b"instruction", b"", b"", b"", struct.pack("<i", 5))).digest()
    keys = BlockKeys(IDENTITY, [5], b"salt")
    assert keys.instruction == keys.key("instruction", NOBODY, as_token_ids([5])) == instruction
    owner = (b"t", b"\xc3\xa9", b"any")
    expected = hashlib.sha256(common + framed(instruction, b"item", *owner, struct.pack("<ii", 1, 300))).digest()
    assert keys.key("item", Owner("t", "é", "any"), as_token_ids([1, 300])) == expected


@pytest.mark.parametrize("field", [field.name for field in fields(PoolIdentity) if field.name != "key_salt"])
def test_every_part_of_the_identity_counts(field):
    other = 32 if field == "page_tokens" else "other"
    assert key(replace(IDENTITY, **{field: other})) != key()


def test_of_a_salt_only_a_fingerprint_is_to_be_seen():
    salts = [b"", b"0123456789abcdef", b"0123456789abcdeg"]
    keys = [BlockKeys(IDENTITY, [1, 2], salt) for salt in salts]
    assert len({one.instruction for one in keys}) == len({one.identity.key_salt for one in keys}) == 3
    assert keys[0].identity == IDENTITY, "no salt, no fingerprint"
    again = BlockKeys(IDENTITY, [1, 2], salts[1])
    assert (again.identity, again.instruction) == (keys[1].identity, keys[1].instruction)
    seen = repr([(one.identity, vars(one)) for one in keys])
    assert "0123456789" not in seen
    assert salts[1].hex() not in seen


# Few characters, so that moving one from a field to the next is tried often.
texts = st.text("ab\0", max_size=3)
tokens = st.lists(st.integers(0, 2), max_size=3)
owners = st.tuples(texts, texts, texts)
salts = st.binary(max_size=2)
identities = st.builds(PoolIdentity, texts, texts, texts, texts, st.integers(1, 2))
inputs = st.tuples(identities, tokens, texts, owners, tokens, salts)


@given(inputs, inputs)
def test_keys_are_equal_only_for_equal_inputs(one, other):
    assert (key(*one) == key(*other)) == (one == other)


@given(st.lists(texts, min_size=2, max_size=2), st.integers(1, 6))
def test_text_moved_between_neighbouring_fields_changes_the_key(pair, at):
    joined = "".join(pair)
    moved = (joined[:at], joined[at:])
    same = tuple(pair) == moved
    for build in (
        lambda a, b: key(replace(IDENTITY, model_fingerprint=a, tokenizer_fingerprint=b)),
        lambda a, b: key(replace(IDENTITY, template_version=a, kv_dtype=b)),
        lambda a, b: key(kind=a, owner=(b, "", "")),
        lambda a, b: key(owner=(a, b, "")),
        lambda a, b: key(owner=("", a, b)),
        lambda a, b: key(replace(IDENTITY, model_fingerprint=b), salt=a.encode()),
    ):
        assert (build(*pair) == build(*moved)) == same


def test_an_owners_bytes_are_not_token_ids():
    assert key(owner=("", "", struct.pack("<i", 7).decode()), token_ids=[]) != key(owner=NOBODY, token_ids=[7])


def test_a_key_does_not_depend_on_the_keys_made_before():
    keys = BlockKeys(IDENTITY, [1, 2])
    calls = [(kind, Owner("", name)) for kind in ("item", "history") for name in "abc"]
    for _ in range(2):
        for kind, owner in calls:
            assert keys.key(kind, owner, as_token_ids([7])) == key(kind=kind, owner=owner)


def test_threads_may_share_the_keys():
    keys = BlockKeys(IDENTITY, [1, 2])
    owners = [Owner("", str(i)) for i in range(500)]
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(lambda owner: keys.key("item", owner, as_token_ids([7])), owners))
    assert found == [key(owner=owner) for owner in owners]


def test_token_ids_are_a_read_only_copy():
    source = np.array([1, 2], np.int32)
    ids = as_token_ids(source)
    source[0] = 9
    assert ids.tolist() == [1, 2]
    assert ids.dtype == np.int32
    with pytest.raises(ValueError, match="read-only"):
        ids[0] = 3


@pytest.mark.parametrize("dtype", [np.int32, np.int64, np.uint8, ">i4"])
def test_token_ids_of_any_integer_dtype_become_the_same(dtype):
    assert as_token_ids(np.array([1, 2], dtype)).tobytes() == as_token_ids([1, 2]).tobytes()


@pytest.mark.parametrize("bad", [[2**31], [-(2**31) - 1], np.array([2**40])])
def test_token_ids_that_do_not_fit_are_refused_not_wrapped(bad):
    with pytest.raises(ValueError, match="must fit int32"):
        as_token_ids(bad)
