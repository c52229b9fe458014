import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rcjax.cache import as_token_ids
from rcjax.cache.packing import holds_ids, pack_ids, unpack_ids

# Edges of what two, three and four bytes hold.
tokens = st.lists(
    st.sampled_from([0, 1, 255, 256, 2**16 - 1, 2**16, 2**24 - 1, 2**24, 2**31 - 1, -1, -(2**31)]), max_size=6
)


@given(tokens, st.binary(max_size=3))
def test_what_was_packed_comes_back(ids, before):
    found = unpack_ids(before + pack_ids(as_token_ids(ids)), len(before))
    assert found.tolist() == ids
    assert found.dtype == np.int32
    assert not found.flags.writeable


@pytest.mark.parametrize(("highest", "width"), [(2**16 - 1, 2), (2**16, 3), (2**24 - 1, 3), (2**24, 4), (-1, 4)])
def test_a_token_takes_the_fewest_bytes_that_hold_all_of_the_block(highest, width):
    assert len(pack_ids(as_token_ids([1, highest, 2]))) == 3 * width + 1


@given(tokens, tokens, st.binary(max_size=3))
def test_only_the_same_are_the_same(one, other, before):
    packed = before + pack_ids(as_token_ids(one))
    for others in (other, as_token_ids(other), np.array(other, np.int64)):
        assert holds_ids(packed, len(before), others) == (one == other)
    assert holds_ids(packed, len(before), one)


def test_ids_that_differ_by_what_two_bytes_cannot_hold_are_not_the_same():
    packed = pack_ids(as_token_ids([1, 2]))
    assert not holds_ids(packed, 0, as_token_ids([1, 2 + 2**16]))
    assert not holds_ids(packed, 0, as_token_ids([1 - 2**16, 2]))
