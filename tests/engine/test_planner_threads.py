"""Many threads plan while items and users change under them: each plan is of one moment per item and user."""

import sys
import threading

import pytest
from planning_kit import new_planner, write_to

from rcjax.catalog.types import Event, Item, User
from rcjax.errors import NotFoundError
from rcjax.request import DeleteItems, DeleteUser, PutItems, PutUser, RecommendRequest

NUM_THREADS, NUM_ROUNDS, NUM_ITEMS = 4, 150, 6
ITEM_IDS = tuple(f"i{i}" for i in range(NUM_ITEMS))
ABSENT = -1


@pytest.fixture(autouse=True)
def many_switches():
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-5)
    yield
    sys.setswitchinterval(interval)


class Texts:
    """What each owner's text number may be at a moment: that of a write which has begun and is not outdone."""

    def __init__(self, owners):
        self._begun = {owner: [ABSENT] for owner in owners}
        self._ended = dict.fromkeys(owners, 0)

    def begin(self, owner, number):
        self._begun[owner].append(number)

    def end(self, owner):
        self._ended[owner] = len(self._begun[owner]) - 1

    def moment(self, owner):
        return self._ended[owner]

    def between(self, owner, since):
        """The numbers that a look at the owner may find, which begins at `since` and ends now."""
        return self._begun[owner][since:]


def number_in(block):
    text = "".join(map(chr, block.token_ids.tolist()))
    return int(text.rpartition("#")[2].split()[0])


def ask(planner, texts, faults, stop, keys):
    request = RecommendRequest(ITEM_IDS[:3], "u")
    while not stop.is_set():
        since = {owner: texts.moment(owner) for owner in (*ITEM_IDS[:3], "u")}
        try:
            plan = planner.plan(request)
        except NotFoundError as error:
            owner = "u" if error.field == "user_id" else ITEM_IDS[int(error.field[len("candidates[")])]
            if ABSENT not in texts.between(owner, since[owner]):
                faults.append(f"{owner} was not found, but was there all the time")
            continue
        for block in plan.prompt.blocks:
            if block.owner.id:
                possible = texts.between(block.owner.id, since[block.owner.id])
                if number_in(block) not in possible:
                    faults.append(f"{block.owner} is {number_in(block)}, not of {possible}")
        for index, key in zip(plan.cached, plan.keys, strict=True):
            block = plan.prompt.blocks[index]
            if keys.key(block.kind, block.owner, block.token_ids) != key:
                faults.append(f"the key of {block.owner} is another text's")
        planner.library.versions.end_read(plan.version)


@pytest.mark.parametrize("max_cache_bytes", [2**20, 2000], ids=["roomy", "tight"])
def test_each_plan_is_of_one_moment_per_owner(max_cache_bytes):
    planner = new_planner(max_cache_bytes=max_cache_bytes)
    texts, faults, stop = Texts((*ITEM_IDS, "u")), [], threading.Event()
    threads = [
        threading.Thread(target=ask, args=(planner, texts, faults, stop, planner.keys)) for _ in range(NUM_THREADS)
    ]
    for thread in threads:
        thread.start()
    try:
        for number in range(NUM_ROUNDS):
            change(planner, texts, number)
    finally:
        stop.set()
        for thread in threads:
            thread.join()
    assert faults == []
    assert planner.library.versions.oldest == NUM_ROUNDS, "every version was ended"
    assert planner.library.cache_bytes <= max_cache_bytes


def change(planner, texts, number):
    """One write: of items or of the user, a deletion one time in five."""
    owners = ("u",) if number % 3 == 2 else tuple(ITEM_IDS[(number + i) % NUM_ITEMS] for i in range(3))
    is_deletion = number % 5 == 4
    if owners == ("u",):
        events = (Event("e", f"cup #{number}"),)
        write = DeleteUser("u") if is_deletion else PutUser(User("u", events))
    else:
        items = tuple(Item(owner, f"mug #{number}") for owner in owners)
        write = DeleteItems(owners) if is_deletion else PutItems(items)
    for owner in owners:
        texts.begin(owner, ABSENT if is_deletion else number)
    write_to(planner, write)
    for owner in owners:
        texts.end(owner)
