"""A shop of a tiny model behind `rcjax serve`, and what has to hold of it whatever it went through."""

from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest
import yaml
from credentials_kit import TOKENS, Authority, write_tokens
from process_kit import Process
from tiny_engine import TEMPLATE, event, item, tiny_model

from rcjax.catalog import Catalogue, User
from rcjax.catalog.jsonl import write_catalogue
from rcjax.model.export import export_folder
from rcjax.request import RecommendRequest
from rcjax.serving.client import RecommenderClient
from rcjax.serving.retries import NO_RETRIES
from rcjax.serving.security import ChannelSecurity, new_channel

SCRIPT = Path(__file__).with_name("faulty_process.py")
NUM_ITEMS, NUM_USERS, NUM_SLICES = 24, 3, 2
ITEMS = [item(number) for number in range(NUM_ITEMS)]
USERS = [User(f"ann-{number}", tuple(event(3 * number + n) for n in range(2))) for number in range(NUM_USERS)]
FULL_OF = {"parallel": "parallel-full", "prefix": "prefix-full"}  # arms that are exact, and the same recomputed
ARMS = {
    "parallel": {"layout": "parallel", "scoring": "anchor"},
    "parallel-full": {"layout": "parallel", "scoring": "anchor", "reuse": "none"},
    "prefix": {"reuse": "prefix"},
    "prefix-full": {"reuse": "none"},
}
ASKS = [
    RecommendRequest(tuple(one.item_id for one in ITEMS[4 * n : 4 * n + 4]), USERS[n % NUM_USERS].user_id)
    for n in range(4)
]
TIMEOUT_S = 600.0  # of a call: a machine may stand still for a while
TOLERANCE = 1e-4  # of scores, in float32


class Shop:
    """The files of a deployment."""

    def __init__(self, folder: Path):
        self.folder = folder
        self.authority = Authority(folder / "tls")
        self.tokens = write_tokens(folder / "tokens", TOKENS)
        self.snapshots = folder / "snapshots"
        files = self.authority.server()
        model = tiny_model()
        layers = {name: x for name, x in model.params["layers"].items() if not name.endswith("bias")}
        config = replace(model.config, qkv_bias=False)  # no family has biases and norms of queries together
        export_folder(folder / "model", config, {**model.params, "layers": layers}, model.tokenizer)
        (folder / "tiny.yaml").write_text(TEMPLATE)
        items, users = ({one.item_id: one for one in ITEMS}, {one.user_id: one for one in USERS})
        write_catalogue(Catalogue(items, users), folder / "shop")
        settings = {
            "model": "model",
            "dtype": "float32",
            "template": "tiny.yaml",
            "catalogue": {"format": "jsonl", "paths": {"folder": "shop"}},
            "cache": {"page_tokens": 8, "pool_bytes": 2**19},
            "mesh": {"slices": NUM_SLICES, "scheduler": {"policy": "round_robin"}},
            "limits": {"max_candidates": 8, "max_item_tokens": 40, "max_history_tokens": 96},
            "arms": ARMS,
            "default_arm": "parallel",
            "shapes": {"rank": [[64, 48], [192, 24], [320, 0]], "build": [[96, 8]], "generate": [[1, 64], [128, 64]]},
            "server": {
                "port": 0,
                "admin_port": 0,
                "tls": {"cert": str(files.cert), "key": str(files.key)},
                "tokens": str(self.tokens),
            },
            "admission": {"max_queue_s": 0.5},
            "snapshot": {"where": str(self.snapshots)},
        }
        self.config = folder / "rcjax.yaml"
        self.config.write_text(yaml.safe_dump(settings))

    def security(self, caller: str = "shop") -> ChannelSecurity:
        return ChannelSecurity(ca=self.authority.file, token=TOKENS[caller])


class Served:
    """`rcjax serve` of the shop as a process, and a client of it."""

    def __init__(self, shop: Shop):
        self.shop = shop
        self.start()

    def start(self) -> None:
        self.num_dead = 0  # slices
        self.process = Process([SCRIPT, "serve", "--config", self.shop.config], self.shop.folder / "log")
        words = self.process.until("listening on").split()
        self.main, self.admin = words[2], words[4].rstrip(");")
        self.client = self.new_client()
        self.client.wait_ready(120.0)

    def new_client(self, security: ChannelSecurity | None = None) -> RecommenderClient:
        connect = partial(new_channel, security=security or self.shop.security())
        return RecommenderClient(self.main, self.admin, timeout_s=TIMEOUT_S, connect=connect, retry=NO_RETRIES)

    def kill(self) -> None:
        self.process.kill()
        self.client.close()

    def restart(self) -> None:
        """Anew, on what the former process left."""
        self.kill()
        self.start()

    def scores(self, ask: RecommendRequest, arm: str) -> dict[str, float]:
        return {one.item_id: one.score for one in self.client.recommend(replace(ask, arm=arm)).ranking}

    def put_back(self) -> None:
        """The shop as it was."""
        self.client.put_items(ITEMS)
        for user in USERS:
            self.client.put_user(user)

    def check_scores(self, ask: RecommendRequest) -> list[dict[str, float]]:
        """That what exact arms rank from cached blocks is what full recompute ranks; the scores by arm."""
        found = [self.scores(ask, arm) for arm in FULL_OF]
        for scores, full in zip(found, FULL_OF.values(), strict=True):
            assert scores == pytest.approx(self.scores(ask, full), abs=TOLERANCE)
        return found

    def check_sound(self) -> list[list[dict[str, float]]]:
        """Health says so, nothing is left of what was, and scores are right; the scores by request."""
        self.client.wait_ready(60.0)
        left = self.process.tell("check")
        assert left == "did check: nothing is left", left
        found = [self.check_scores(ask) for ask in ASKS]
        stats = self.client.stats()
        states = ["dead"] * self.num_dead + ["open"] * (NUM_SLICES - self.num_dead)
        assert sorted(one.state for one in stats.slices) == states
        assert stats.num_compilations == 0
        assert stats.num_items >= NUM_ITEMS
        assert stats.num_users >= NUM_USERS
        return found
