"""How to call a server from a shell, with a user and items that it has."""

import json
import shlex
from collections.abc import Collection
from pathlib import Path

from rcjax.catalog import Catalogue
from rcjax.config import ServerSettings
from rcjax.request import RecommendRequest

METHOD = "rcjax.v1.Recommender/Recommend"
NUM_CANDIDATES = 3
# What a caller has and a server has not, to be put in place of these names.
CA, CLIENT_CERT, CLIENT_KEY, TOKEN_FILE = "CA.pem", "CLIENT.pem", "CLIENT.key", "TOKEN_FILE"
_ANY_HOST = {"0.0.0.0": "127.0.0.1", "[::]": "[::1]"}


def example_request(
    catalogue: Catalogue, items: Collection[str], users: Collection[str], max_candidates: int
) -> RecommendRequest | None:
    """A request of the catalogue that the server can answer, which knows `items` and `users`: a few candidates.

    Its first recorded one, else its first user and items. Without users the history is empty; None without items.
    """
    num = min(NUM_CANDIDATES, max_candidates)
    for asked in catalogue.requests:
        candidates = [item_id for item_id in asked.candidates if item_id in items]
        if asked.user_id in users and candidates:
            return RecommendRequest(tuple(candidates[:num]), asked.user_id)
    candidates = [item_id for item_id in catalogue.items if item_id in items][:num]
    if not candidates:
        return None
    user_id = next((user_id for user_id in catalogue.users if user_id in users), "")
    return RecommendRequest(tuple(candidates), user_id, history=None if user_id else ())


def example_lines(
    request: RecommendRequest, address: str, server: ServerSettings, config: Path | None = None
) -> list[str]:
    """The lines for `grpcurl` and, where `rcjax rank` can ask the same, for that.

    `address` is where the server listens, `config` the file of its settings.
    """
    host, _, port = address.rpartition(":")
    target = f"{_ANY_HOST.get(host, host)}:{port}"
    ids = [str(candidate) for candidate in request.candidates]
    lines = [_grpcurl(request, ids, target, server)]
    if request.user_id and not any("," in item_id for item_id in ids):
        given = [] if config is None else ["--config", str(config)]
        asked = ["--user", request.user_id, "--candidates", ",".join(ids), "--target", target]
        lines.append(shlex.join(["rcjax", "rank", *given, *asked, *_rank_security(server)]))
    return lines


def _grpcurl(request: RecommendRequest, ids: list[str], target: str, server: ServerSettings) -> str:
    whose: dict[str, object] = {"user_id": request.user_id} if request.user_id else {"history": {}}
    message = whose | {"candidates": [{"item_id": item_id} for item_id in ids]}
    flags = ["-plaintext"]
    if server.tls is not None:
        flags = ["-cacert", CA]
        if server.tls.client_ca is not None:
            flags += ["-cert", CLIENT_CERT, "-key", CLIENT_KEY]
    # not shlex.join: the shell is to put the token there, which is then in no history
    header = f'-H "authorization: Bearer $(cat {TOKEN_FILE})" ' if server.tokens is not None else ""
    return f"grpcurl {shlex.join(flags)} {header}{shlex.join(['-d', json.dumps(message), target, METHOD])}"


def _rank_security(server: ServerSettings) -> list[str]:
    options = []
    if server.tls is not None:
        options += ["--ca", CA]
        if server.tls.client_ca is not None:
            options += ["--cert", CLIENT_CERT, "--key", CLIENT_KEY]
    return options + (["--token-file", TOKEN_FILE] if server.tokens is not None else [])
