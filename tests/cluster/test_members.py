"""Who owns an item among the members: its rule's slices where they are there, else one that follows from its id."""

from hypothesis import given
from hypothesis import strategies as st

from rcjax.cluster.ray.member import Among, Member, MemberOwners, MemberState
from rcjax.serving.owners import Everywhere, Hashed

NUM_PLACES = 12
IDS = [f"item-{number}" for number in range(300)]
places = st.frozensets(st.integers(0, NUM_PLACES - 1), min_size=1)


@given(there=places)
def test_every_item_is_owned_by_members_and_by_those_of_its_rule_where_they_are_there(there):
    rule, among = Hashed(NUM_PLACES), Among(Hashed(NUM_PLACES), there)
    for one in IDS:
        owners, home = among.slices_of(one), rule.slices_of(one)
        assert set(owners) <= there
        assert len(owners) == 1
        if set(home) <= there:
            assert owners == home
    assert Among(Everywhere(NUM_PLACES), there).slices_of("any") == tuple(sorted(there))


@given(there=places, place=st.integers(0, NUM_PLACES - 1))
def test_who_comes_or_goes_moves_its_own_share_only(there, place):
    without, with_it = there - {place}, there | {place}
    if not without:
        return
    before, after = Among(Hashed(NUM_PLACES), without), Among(Hashed(NUM_PLACES), with_it)
    for one in IDS:
        if after.slices_of(one) != (place,):
            assert after.slices_of(one) == before.slices_of(one)


def test_shares_are_about_equal():
    among = Among(Hashed(NUM_PLACES), {1, 5, 7})
    counts = [sum(among.slices_of(one) == (place,) for one in IDS) for place in (1, 5, 7)]
    assert min(counts) > 70


def test_owners_follow_members_once_they_are_told():
    owners = MemberOwners(Hashed(NUM_PLACES))
    owners.places = frozenset({3})
    rule = owners.following()
    owners.swap(rule)
    assert owners.slices_of("any") == (3,)
    assert owners.following() is None
    adapted = owners.adapted(Everywhere(NUM_PLACES))
    assert adapted.slices_of("any") == (3,), "a placement is of the members, too"


def test_a_member_has_places_in_a_row():
    member = Member("host", "one", "node", 1, 4, 2, MemberState.OPEN)
    assert list(member.places) == [4, 5]
