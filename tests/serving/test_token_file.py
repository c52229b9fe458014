"""The file of tokens: whose each is, what is refused, and what a file that changes does."""

import hmac
import logging
from pathlib import Path

import pytest
from credentials_kit import TOKENS, replaced, write_tokens

from rcjax.serving.caller import Caller
from rcjax.serving.security.tokens import CHECK_EVERY_S, TokenFile, read_tokens

NEW = "new-0123456789-0123456789"


class Clock:
    now_s = 0.0

    def __call__(self) -> float:
        return self.now_s


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return write_tokens(tmp_path / "tokens", TOKENS)


def test_each_token_is_its_callers(path: Path, clock: Clock) -> None:
    tokens = TokenFile(path, clock)
    assert {name: tokens.caller(token) for name, token in TOKENS.items()} == {name: Caller(name) for name in TOKENS}
    for wrong in ("", "shop", TOKENS["shop"][:-1], TOKENS["shop"] + "x", TOKENS["shop"].upper(), "\udc80", "é"):
        assert tokens.caller(wrong) is None


def test_every_token_is_compared_whoever_calls(path: Path, clock: Clock, monkeypatch: pytest.MonkeyPatch) -> None:
    compared = []

    def compare(one: bytes, other: bytes) -> bool:
        compared.append(len(one))
        return compare_digest(one, other)

    compare_digest = hmac.compare_digest
    monkeypatch.setattr(hmac, "compare_digest", compare)
    tokens = TokenFile(path, clock)
    for token in (*TOKENS.values(), "nobody's"):
        compared.clear()
        tokens.caller(token)
        assert compared == [32] * len(TOKENS)


def test_a_name_may_have_an_old_token_and_a_new_one(path: Path, clock: Clock) -> None:
    replaced(path, f"# rotated in November\n\n  shop {TOKENS['shop']}\nshop\t{NEW}\n".encode())
    tokens = TokenFile(path, clock)
    assert tokens.caller(NEW) == tokens.caller(TOKENS["shop"]) == Caller("shop")


def test_a_file_that_changes_is_taken_after_a_while(path: Path, clock: Clock) -> None:
    tokens = TokenFile(path, clock)
    write_tokens(path, {"shop": NEW})
    clock.now_s = 0.9 * CHECK_EVERY_S
    assert (tokens.caller(NEW), tokens.caller(TOKENS["shop"])) == (None, Caller("shop"))
    clock.now_s = CHECK_EVERY_S
    assert (tokens.caller(NEW), tokens.caller(TOKENS["shop"])) == (Caller("shop"), None)


@pytest.mark.parametrize("wrong", [b"shop\n", b"\xff\xfe", b"", None])
def test_a_wrong_file_leaves_the_former_tokens_and_is_told_of_once(
    path: Path, clock: Clock, wrong: bytes | None, caplog: pytest.LogCaptureFixture
) -> None:
    tokens = TokenFile(path, clock)
    if wrong is None:
        path.unlink()
    else:
        replaced(path, wrong)
    for _ in range(3):
        clock.now_s += CHECK_EVERY_S
        assert tokens.caller(TOKENS["shop"]) == Caller("shop")
    assert [record.levelno for record in caplog.records] == [logging.ERROR]
    assert "stay in force" in caplog.text
    assert TOKENS["shop"] not in caplog.text
    write_tokens(path, {"shop": NEW})
    clock.now_s += CHECK_EVERY_S
    assert tokens.caller(NEW) == Caller("shop")


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("", "has no tokens"),
        ("# nobody\n", "has no tokens"),
        (f"\nshop {NEW} more\n", ":2: has 3 words; give a name and a token"),
        (f"{NEW}\n", ":1: has 1 words"),
        ("shop short\n", ":1: the token of shop has 5 characters; give at least 16"),
        ("shop 0123456789012345é\n", "random ones of A-Z"),
        (f"shop {NEW}\nmail {NEW}\n", ":2: the token of mail is on a line above"),
    ],
)
def test_what_is_wrong_is_named_by_its_line_and_without_the_token(tmp_path: Path, text: str, problem: str) -> None:
    path = tmp_path / "tokens"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(ValueError, match=problem) as caught:
        read_tokens(path)
    assert str(path) in str(caught.value)
    assert NEW not in str(caught.value)


def test_the_first_file_must_be_there(tmp_path: Path, clock: Clock) -> None:
    with pytest.raises(ValueError, match=r"server\.tokens: cannot read .*none: No such file"):
        TokenFile(tmp_path / "none", clock)
