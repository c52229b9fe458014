"""Ids of requests: the caller's own where it is one, else a new one."""

import random
import re
from collections.abc import Mapping

METADATA_KEY = "x-request-id"
_GOOD = re.compile(r"[A-Za-z0-9._:/+=@-]{1,64}")  # anything else could forge a line of a log, or fill it


def request_id_of(metadata: Mapping[str, str | bytes]) -> str:
    """What the caller calls its request, if that may be written to a log as it is; else 32 hexadecimal digits."""
    given = metadata.get(METADATA_KEY)
    if isinstance(given, str) and _GOOD.fullmatch(given):
        return given
    return f"{random.getrandbits(128):032x}"
