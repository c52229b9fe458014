"""Versions against their definition: lists of what is alive, looked through each time."""

from hypothesis import given
from hypothesis import strategies as st

from rcjax.engine.versions import Versions

STEPS = st.lists(st.tuples(st.sampled_from(["read", "write", "end read", "end write"]), st.integers(0, 100)))


@given(STEPS)
def test_a_read_is_older_than_every_write_that_is_alive(steps):
    versions, reads, writes = Versions(), [], []
    newest, oldest = 0, 0
    for step, which in steps:
        if step == "read":
            version = versions.begin_read()
            assert version == (min(writes) - 1 if writes else newest)
            reads.append(version)
        elif step == "write":
            newest += 1
            assert versions.begin_write() == newest
            writes.append(newest)
        elif step == "end read" and reads:
            versions.end_read(reads.pop(which % len(reads)))
        elif step == "end write" and writes:
            versions.end_write(writes.pop(which % len(writes)))
        assert versions.oldest >= oldest, "once nothing older lives, nothing older ever will"
        oldest = versions.oldest
        assert oldest <= min([*reads, *writes, newest])
        if not writes:
            assert oldest == min([*reads, newest]), "nothing holds it back"


def test_a_read_sees_the_writes_up_to_its_version():
    versions = Versions()
    first, second = versions.begin_write(), versions.begin_write()
    versions.end_write(second)
    assert versions.begin_read() == 0, "the first may still be on its way"
    versions.end_write(first)
    assert versions.begin_read() == second
    assert versions.oldest == 0
    versions.end_read(0)
    assert versions.oldest == second
