import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rcjax.cache import as_token_ids
from rcjax.cache.packing import pack_ids, same_ids, unpack_ids

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


@given(tokens, tokens)
def test_only_the_same_are_the_same(one, other):
    for others in (other, as_token_ids(other), np.array(other, np.int64)):
        assert same_ids(as_token_ids(one), others) == (one == other)
