"""Bearer tokens: whose each is, from a file that is read again when it changes."""

import hashlib
import hmac
import logging
import re
from collections.abc import Callable
from pathlib import Path

from rcjax.serving.caller import Caller
from rcjax.serving.security.stamp import Stamp, stamp_of

logger = logging.getLogger(__name__)

MIN_TOKEN_LEN = 16
CHECK_EVERY_S = 1.0
_TOKEN = re.compile(r"[A-Za-z0-9._~+/=-]+")  # RFC 6750's


class TokenFile:
    """Who may call, by token: a file with a name and a token on each line, `#` before what is no such line.

    A name may have several tokens, so that one can be replaced while the other still works. The file is looked at at
    most once in `CHECK_EVERY_S` seconds of `clock`; one that cannot be read or is wrong leaves the former tokens in
    force, and the log says so. Raises ValueError where the first one is wrong. Tokens are kept as SHA-256 only. For
    one event loop.
    """

    def __init__(self, path: Path, clock: Callable[[], float]):
        self._path = path
        self._clock = clock
        try:
            self._stamp: Stamp | None = stamp_of(path)
            self._callers = read_tokens(path)
        except OSError as error:
            raise ValueError(f"server.tokens: cannot read {path}: {error.strerror}") from error
        self._checked_s = clock()

    def caller(self, token: str) -> Caller | None:
        """Whose token this is; takes as long whoever's it is, or nobody's."""
        self._look()
        digest = _digest(token)
        found = None
        for known, caller in self._callers:
            if hmac.compare_digest(known, digest):
                found = caller
        return found

    def _look(self) -> None:
        """Takes a file that changed."""
        now_s = self._clock()
        if now_s - self._checked_s < CHECK_EVERY_S:
            return
        self._checked_s = now_s
        try:
            stamp = stamp_of(self._path)
            if stamp == self._stamp:
                return
            self._stamp = stamp  # also of a wrong file, which is told of once
            self._callers = read_tokens(self._path)
        except OSError as error:
            if self._stamp is not None:
                logger.error("%s: %s; the former tokens stay in force", self._path, error.strerror)
            self._stamp = None
        except ValueError as error:
            logger.error("%s; the former tokens stay in force", error)
        else:
            logger.info("%s: %d tokens are in force", self._path, len(self._callers))


def read_tokens(path: Path) -> tuple[tuple[bytes, Caller], ...]:
    """The SHA-256 of each token of a file, and its caller; ValueError names the line that is wrong, never its token."""
    callers: dict[bytes, Caller] = {}
    try:
        text = path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise ValueError(f"{path}: is not UTF-8") from error
    for number, line in enumerate(text.splitlines(), 1):
        fields = line.split()
        if not fields or fields[0].startswith("#"):
            continue
        if len(fields) != 2:
            raise ValueError(f"{path}:{number}: has {len(fields)} words; give a name and a token")
        name, token = fields
        if len(token) < MIN_TOKEN_LEN or not _TOKEN.fullmatch(token):
            raise ValueError(
                f"{path}:{number}: the token of {name} has {len(token)} characters; give at least {MIN_TOKEN_LEN} "
                "random ones of A-Z a-z 0-9 . _ ~ + / = -"
            )
        if _digest(token) in callers:
            raise ValueError(f"{path}:{number}: the token of {name} is on a line above; give each its own")
        callers[_digest(token)] = Caller(name)
    if not callers:
        raise ValueError(f"{path}: has no tokens, so nobody could call; give a name and a token on each line")
    return tuple(callers.items())


def _digest(token: str) -> bytes:
    return hashlib.sha256(token.encode("utf-8", errors="surrogateescape")).digest()
