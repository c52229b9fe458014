"""One server as a process of its own goes through every fault that it has to survive, and is sound after each."""

import asyncio
import itertools
import random
import resource
import shutil
import socket
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import grpc
import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

sys.path.insert(0, str(Path(__file__).parents[1] / "engine"))

from credentials_kit import LONG_AGO, TOKENS, replaced, write_tokens
from fault_kit import ASKS, ITEMS, NUM_SLICES, TOLERANCE, USERS, Served, Shop
from fault_load import Working, open_loop
from hostile import METHODS, SCANS, Hostile, proper_outcome
from tiny_engine import item

from rcjax.errors import (
    InvalidRequestError,
    NotFoundError,
    RcjaxError,
    UnauthenticatedError,
    UnavailableError,
)
from rcjax.request import RecommendRequest
from rcjax.serving.security import ChannelSecurity
from rcjax.serving.security.channel import new_channel

PASS_S = 0.05  # of a server that is overloaded: capacity is known then, and a test need not be fast
NEW_TOKEN = "new-0123456789-0123456789"
slow = partial(pytest.param, marks=pytest.mark.slow)


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    one = Served(Shop(tmp_path_factory.mktemp("faults")))
    yield one
    one.kill()


@pytest.fixture(scope="module")
def expected(served: Served) -> list:
    """The scores of before."""
    return served.check_sound()


@pytest.fixture(autouse=True)
def sound_afterwards(served: Served, expected: list) -> Iterator[None]:
    yield
    after = served.check_sound()
    assert after == [[pytest.approx(scores, abs=TOLERANCE) for scores in of_ask] for of_ask in expected]


def test_an_exception_of_the_engine_is_of_one_request(served: Served) -> None:
    served.process.tell("raise")
    with pytest.raises(RcjaxError) as caught:
        served.client.recommend(ASKS[0])
    assert caught.value.message == "internal error; the server's log has the details"
    assert "secret of another user" in served.process.said


def test_a_client_that_vanishes_in_the_middle_of_its_streams(served: Served) -> None:
    served.process.tell(f"slow {PASS_S}")
    script = Path(__file__).with_name("vanishing_client.py")
    ca, token = served.shop.authority.file, TOKENS["shop"]
    client = subprocess.Popen(
        [sys.executable, str(script), served.main, str(ca), token], stdout=subprocess.PIPE, text=True
    )
    assert client.stdout is not None
    assert client.stdout.readline() == "streaming\n"
    client.kill()
    client.communicate()
    served.process.tell("slow 0")


# ---- snapshots


def files_of(folder: Path) -> list[Path]:
    return sorted(path for path in folder.rglob("*") if path.is_file() and path.name != "lock")


def test_a_full_disk_costs_the_snapshot_alone(served: Served) -> None:
    shutil.rmtree(served.shop.snapshots, ignore_errors=True)
    soft, hard = resource.prlimit(served.process.popen.pid, resource.RLIMIT_FSIZE)
    max_bytes = len(served.process.said) + 50_000  # the log is a file of the process, too
    resource.prlimit(served.process.popen.pid, resource.RLIMIT_FSIZE, (max_bytes, hard))
    try:
        with pytest.raises(RcjaxError, match="cannot be written: File too large"):
            served.client.take_snapshot()
        assert files_of(served.shop.snapshots) == []
        served.check_sound()
    finally:
        resource.prlimit(served.process.popen.pid, resource.RLIMIT_FSIZE, (soft, hard))
    assert served.client.take_snapshot().num_items >= len(ITEMS)


def cut(raw: bytes) -> bytes:
    return raw[: len(raw) // 2]


def every_64th_flipped(raw: bytes) -> bytes:
    return bytes(byte ^ 1 << at // 64 % 8 if at % 64 == 0 else byte for at, byte in enumerate(raw))


@pytest.mark.parametrize("damage", [cut, every_64th_flipped])
def test_a_snapshot_with_any_file_damaged_is_refused_or_restored_without_it(served: Served, damage) -> None:
    shutil.rmtree(served.shop.snapshots, ignore_errors=True)
    served.client.take_snapshot()
    outcomes = Counter()
    for path in files_of(served.shop.snapshots):
        raw = path.read_bytes()
        path.write_bytes(damage(raw))
        outcomes[path.parent.name, restored(served)] += 1
        path.write_bytes(raw)
        served.put_back()
    assert outcomes.keys() == {("segments", "corrupt"), ("library", "refused"), ("snapshots", "refused")}
    assert restored(served) == "whole"


def restored(served: Served) -> str:
    """Forgets everything and restores; scores of what came back are those of full recompute."""
    served.client.delete_items(one.item_id for one in ITEMS)
    for user in USERS:
        served.client.delete_user(user.user_id)
    try:
        result = served.client.restore_snapshot()
    except InvalidRequestError:
        return "refused"
    for ask in ASKS:
        try:
            served.check_scores(ask)
        except NotFoundError:
            assert result.num_corrupt, result
    return "corrupt" if result.num_corrupt else "whole"


# ---- what others send


@pytest.mark.parametrize("num_messages", [300, slow(10_000)])
def test_malformed_and_random_messages(served: Served, num_messages: int) -> None:
    security = served.shop.security()
    channels = {name: new_channel(getattr(served, name), security) for name in ("main", "admin")}
    seen: Counter[grpc.StatusCode] = Counter()

    @settings(
        max_examples=num_messages,
        derandomize=True,
        database=None,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    @given(method=st.sampled_from(METHODS), seed=st.integers(0, 2**32 - 1))
    def send(method, seed):
        channel = channels["admin" if method.containing_service.name == "Admin" else "main"]
        seen[proper_outcome(channel, method, Hostile(seed).data(method))] += 1

    send()
    for channel in channels.values():
        channel.close()
    assert seen[grpc.StatusCode.INVALID_ARGUMENT] > num_messages / 10
    assert seen[grpc.StatusCode.OK] > 0


def test_what_a_port_scan_sends(served: Served) -> None:
    left_open = []
    for address in (served.main, served.admin):
        host, port = address.rsplit(":", 1)
        for data in SCANS.values():
            with socket.create_connection((host, int(port)), timeout=60) as scan:
                scan.sendall(data)
        left_open += [socket.create_connection((host, int(port)), timeout=60) for _ in range(50)]
    served.check_sound()
    for scan in left_open:
        scan.close()


@pytest.mark.parametrize("seconds", [3, slow(60)])
def test_five_times_what_it_can_do(served: Served, expected: list, seconds: int) -> None:
    served.process.tell(f"slow {PASS_S}")
    rate = 5 * NUM_SLICES / PASS_S
    outcomes = asyncio.run(open_loop(served, rate, seconds))
    served.process.tell("slow 0")
    assert outcomes.keys() == {"answered", "ResourceExhaustedError"}, {k: len(v) for k, v in outcomes.items()}
    assert all(error.retry_after_s > 0 for error in outcomes["ResourceExhaustedError"])
    for number, scores in outcomes["answered"]:
        assert scores == pytest.approx(expected[number][0], abs=TOLERANCE)


# ---- credentials


def test_certificates_that_have_expired(served: Served) -> None:
    served.shop.authority.server(not_after=LONG_AGO)
    with served.new_client() as late, pytest.raises(UnavailableError):
        late.recommend(ASKS[0])
    served.check_sound()  # over the connection that was there before
    served.shop.authority.server()
    with served.new_client() as again:
        assert again.recommend(ASKS[0]).ranking
    with served.new_client(ChannelSecurity(tls=False, token=TOKENS["shop"])) as plain, pytest.raises(UnavailableError):
        plain.recommend(ASKS[0])


def test_tokens_that_are_replaced_while_it_serves(served: Served) -> None:
    tokens, authority = served.shop.tokens, served.shop.authority
    replaced(tokens, b"shop\n")  # half of a line: the former tokens stay
    assert served.client.recommend(ASKS[0]).ranking
    write_tokens(tokens, {"shop": NEW_TOKEN})
    with served.new_client(ChannelSecurity(ca=authority.file, token=NEW_TOKEN)) as new:
        assert until_let_in(new) == 4
    with pytest.raises(UnauthenticatedError):
        served.client.recommend(ASKS[0])
    write_tokens(tokens, TOKENS)
    assert until_let_in(served.client) == 4


def until_let_in(client) -> int:
    """Asks until the server has read the file; how many items it ranks."""
    until_s = time.monotonic() + 60.0
    while True:
        try:
            return len(client.recommend(ASKS[0]).ranking)
        except UnauthenticatedError:
            if time.monotonic() > until_s:
                raise
            time.sleep(0.1)


# ---- ends


def test_a_slice_that_dies(served: Served) -> None:
    num_failed = served.client.stats().num_failed
    served.process.tell("kill")
    asked = [served.client.recommend(ask).slice_index for ask in ASKS]
    served.num_dead = 1
    assert len(set(asked)) == 1
    assert served.client.stats().num_failed == num_failed


@pytest.mark.parametrize("num_kills", [1, slow(6)])
def test_killed_while_it_puts_items_and_takes_snapshots(served: Served, num_kills: int) -> None:
    draw = random.Random(num_kills)
    for kill in range(num_kills):
        first_number = 10_000 * (kill + 1)
        working = Working(served, map(item, itertools.count(first_number)))
        working.kill(num_wanted=draw.randrange(8, 40))
        served.restart()
        ids = [f"i{first_number + n}" for n in range(working.num_put + 8)]
        for first in range(0, len(ids) - 3, 4):
            try:
                served.check_scores(RecommendRequest(tuple(ids[first : first + 4]), USERS[0].user_id))
            except NotFoundError:
                assert first + 4 > working.num_safe
        served.client.delete_items(ids)
