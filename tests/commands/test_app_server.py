"""The commands that talk to a server, against a real one; and the bench and the build on a tiny model."""

import json
import os
import signal
import urllib.request
from concurrent.futures import ThreadPoolExecutor
from queue import Queue

import pytest
from fake_router import FakeRouter
from tiny_engine import tiny_model
from typer.testing import CliRunner

from rcjax.catalog import Catalogue, Event, Item, User
from rcjax.catalog.jsonl import write_catalogue
from rcjax.commands import bench
from rcjax.commands.app import app
from rcjax.commands.example_call import example_lines
from rcjax.config import ArmSettings, Settings, SnapshotSettings, read_catalogue
from rcjax.errors import InvalidRequestError
from rcjax.request import RecommendRequest
from rcjax.serving import deployment
from rcjax.serving.client import RecommenderClient
from rcjax.serving.server import Addresses, Server, running_server


@pytest.fixture
def run(monkeypatch):
    monkeypatch.setenv("COLUMNS", "200")
    monkeypatch.setenv("NO_COLOR", "1")
    return lambda *args: CliRunner().invoke(app, list(args))


@pytest.fixture(scope="module")
def address():
    engine = FakeRouter(*(f"item-0000{n}" for n in range(5)))
    engine.users["test-00000"] = ()

    def refuse_bad(asked) -> None:
        if asked.user_id == "bad":
            raise InvalidRequestError("user_id is bad", field="user_id")

    engine.before = refuse_bad
    with running_server(Server(lambda: engine)) as addresses:
        yield addresses.main


def test_rank_prints_titles_tokens_and_times(run, address):
    candidates = "item-00001,item-00004,item-00002"
    result = run("rank", "--user", "test-00000", "--candidates", candidates, "--top-k", "2", "--target", address)
    assert result.exit_code == 0, result.output
    lines = result.output.splitlines()
    (best,) = [line for line in lines if "item-00004" in line]
    (second,) = [line for line in lines if "item-00002" in line]
    assert lines.index(best) < lines.index(second)
    assert "4.00" in best
    titles = read_catalogue(Settings().catalogue).items
    assert titles["item-00004"].title in best
    assert "item-00001" not in result.output
    assert "106 prompt tokens: 100 cached, 0 selected, 6 fresh" in result.output
    assert "extend 3.0" in result.output


@pytest.mark.parametrize("charset", ["ascii", "latin-1", "utf-8"])
def test_titles_are_printed_whatever_the_terminals_encoding(run, address, tmp_path, charset):
    titles = ["Café crème", "茶 \N{TEACUP WITHOUT HANDLE}"]
    records = [{"item_id": f"item-0000{n}", "title": title} for n, title in enumerate(titles)]
    (tmp_path / "items.jsonl").write_text("".join(json.dumps(record) + "\n" for record in records))
    config = tmp_path / "mine.yaml"
    config.write_text("catalogue: {format: jsonl, paths: {folder: .}}")
    asked = ["--user", "test-00000", "--candidates", "item-00000,item-00001", "--target", address]
    result = CliRunner(charset=charset).invoke(app, ["rank", *asked, "--config", str(config)])
    assert result.exit_code == 0, result.output
    printed = result.stdout_bytes.decode(charset)
    for title in titles:
        assert title.encode(charset, "backslashreplace").decode(charset) in printed


@pytest.mark.parametrize(
    ("args", "named"),
    [
        (["--user", "nobody", "--candidates", "item-00001"], "nobody"),
        (["--user", "ann", "--candidates", "item-00001,item-77777"], "candidates[1]"),
        (["--user", "bad", "--candidates", "item-00001"], "user_id is bad (field user_id)"),
    ],
)
def test_what_the_server_refuses_is_a_line(run, address, args, named):
    result = run("rank", *args, "--target", address)
    assert result.exit_code == 1
    assert result.stderr.startswith("error: ")
    assert named in result.stderr


class Local:
    """Stands in for the engine that `deploy` returns."""

    def __init__(self, router: FakeRouter):
        self.router = router

    def known(self):
        return self.router.items, set(self.router.users)


@pytest.fixture
def serving(run, monkeypatch):
    """Runs `rcjax serve` on free ports with a fake engine, and meanwhile a call with its address, on another thread."""
    addresses: Queue[Addresses] = Queue()
    start = Server.start

    async def and_tell(server: Server) -> Addresses:
        addresses.put(await start(server))
        return addresses.queue[0]

    def serve(router: FakeRouter, meanwhile, *options: str):
        monkeypatch.setattr(deployment, "deploy", lambda *args, **kwargs: Local(router))
        monkeypatch.setattr(Server, "start", and_tell)
        with ThreadPoolExecutor(1) as caller:
            done = caller.submit(lambda: meanwhile(addresses.get(timeout=60)))
            result = run("serve", "--port", "0", "--admin-port", "0", *options)
            return result, done.result()

    return serve


def test_serve_answers_until_sigterm(serving):
    def use_and_stop(addresses: Addresses) -> tuple[str, str]:
        try:
            with RecommenderClient(addresses.main) as client:
                client.wait_ready(60.0)
                best = client.recommend(RecommendRequest(("item-1", "item-2"), "ann")).ranking[0].item_id
                return addresses.main, best
        finally:
            os.kill(os.getpid(), signal.SIGTERM)

    router = FakeRouter("item-1", "item-2")
    result, (target, best) = serving(router, use_and_stop)
    assert best == "item-2"
    assert result.exit_code == 0, result.output
    assert f"listening on {target}" in result.output
    assert "ready: fake" in result.output
    assert "to call it" not in result.output  # it has nothing of the embedded shop
    assert result.output.endswith("stopped\n")
    assert router.grace_s == [Settings().server.grace_s]


def test_serve_prints_how_to_call_it_unless_it_is_into_a_log(serving, tmp_path):
    write_catalogue(Catalogue({"item-1": Item("item-1", "A")}, {"ann": User("ann")}), tmp_path)
    config = tmp_path / "mine.yaml"

    def stop(addresses: Addresses) -> str:
        try:
            with RecommenderClient(addresses.main) as client:
                client.wait_ready(60.0)
        finally:
            os.kill(os.getpid(), signal.SIGTERM)
        return addresses.main

    for log in ("rich", "json"):
        config.write_text(f"{{catalogue: {{format: jsonl, paths: {{folder: .}}}}, telemetry: {{log: {log}}}}}")
        router = FakeRouter("item-1")
        router.users["ann"] = ()
        result, target = serving(router, stop, "--config", str(config))
        assert result.exit_code == 0, result.output
        lines = example_lines(RecommendRequest(("item-1",), "ann"), target, Settings().server, config)
        assert all((line in result.output) == (log == "rich") for line in lines)
        assert ("ann" in result.output) == (log == "rich")


@pytest.mark.parametrize(("default_arm", "is_told"), [("rcjax", True), ("parallel", False)])
def test_serve_warns_of_an_arm_whose_fidelity_nobody_measured(serving, tmp_path, default_arm, is_told):
    config = tmp_path / "mine.yaml"
    config.write_text(f"{{default_arm: {default_arm}, telemetry: {{log: json}}}}")

    def stop(addresses: Addresses) -> None:
        with RecommenderClient(addresses.main) as client:
            client.wait_ready(60.0)
        os.kill(os.getpid(), signal.SIGTERM)

    result, _ = serving(FakeRouter("item-1"), stop, "--config", str(config))
    assert result.exit_code == 0, result.output
    lines = [json.loads(line) for line in result.output.splitlines()]
    told = [line["message"] for line in lines if "rcjax eval --arms rcjax" in line["message"]]
    assert len(told) == is_told


def test_serve_ends_with_a_line_when_its_engine_is_lost(serving):
    router = FakeRouter()

    def lose(addresses: Addresses) -> None:
        with RecommenderClient(addresses.main) as client:
            client.wait_ready(60.0)
        router.lost.set_exception(RuntimeError("the device fell off"))

    result, _ = serving(router, lose)
    assert result.exit_code == 1
    assert result.stderr.splitlines()[-1] == "error: the engine is lost: RuntimeError: the device fell off"
    assert "Traceback" not in result.output


def test_serve_for_machines_writes_json_alone_and_serves_metrics(serving, tmp_path):
    config = tmp_path / "mine.yaml"
    config.write_text("telemetry: {log: json, metrics_port: 0}")
    router = FakeRouter("item-1")
    router.report = lambda: None  # it counts nothing

    def use_and_stop(addresses: Addresses) -> str:
        try:
            with RecommenderClient(addresses.main) as client:
                client.wait_ready(60.0)
                client.recommend(RecommendRequest(("item-1",), "ann"))
            with urllib.request.urlopen(f"http://{addresses.metrics}/metrics", timeout=60) as response:
                return response.read().decode()
        finally:
            os.kill(os.getpid(), signal.SIGTERM)

    result, metrics = serving(router, use_and_stop, "--config", str(config))
    assert result.exit_code == 0, result.output
    lines = [json.loads(line) for line in result.output.splitlines()]
    messages = [line["message"] for line in lines]
    assert any(message.startswith("listening on") and ", metrics 127.0.0.1:" in message for message in messages)
    assert messages[-1] == "stopped"
    (asked,) = [line for line in lines if "rpc" in line]
    assert asked["rpc"]["code"] == "OK"
    assert 'rcjax_rpcs_total{code="OK",method="/rcjax.v1.Recommender/Recommend"} 1.0' in metrics


def test_serve_says_that_a_port_is_taken(run, monkeypatch, address):
    monkeypatch.setattr(deployment, "deploy", lambda *args, **kwargs: Local(FakeRouter()))
    result = run("serve", "--port", address.split(":")[1], "--admin-port", "0")
    assert result.exit_code == 1
    assert f"cannot listen on {address}" in result.stderr


def test_a_catalogue_without_requests_cannot_be_benched():
    with pytest.raises(ValueError, match="no requests"):
        bench.bench_requests(Catalogue({}, {}), 3)


def test_the_bench_compares_the_arms(console, shop_settings, tmp_path):
    answers = bench.compare_arms(console, shop_settings, 3, model=tiny_model())
    assert list(answers) == ["full", "prefix", "rcjax", "parallel"]  # from what reuses least
    assert {arm: len(of_arm) for arm, of_arm in answers.items()} == dict.fromkeys(answers, 3)
    tokens = {arm: [answer.result.tokens for answer in of_arm] for arm, of_arm in answers.items()}
    assert all(count.built == 0 for counts in tokens.values() for count in counts)
    assert all(count.cached == 0 for count in tokens["full"])
    assert all(count.selected == 80 for count in tokens["rcjax"])  # 4 tokens of each of 20 items
    claims = bench.claims(answers)
    bench.write_json(tmp_path / "out.json", answers)
    assert [claim["target"] for claim in claims] == [5.0, 10.0]
    assert json.loads((tmp_path / "out.json").read_text())["claims"] == claims
    assert "vs prefix" in console.file.getvalue()


def test_the_semantic_pool_is_filled_where_an_arm_borrows(console, shop_settings):
    arms = {"borrows": ArmSettings(history="semantic")}
    settings = shop_settings.model_copy(update={"arms": arms, "default_arm": "borrows"})
    users = {"u": User("u", (Event("i", "red mug"),))}
    engine = deployment.deploy(settings, Catalogue({"i": Item("i", "mug")}, users), console, model=tiny_model())
    (result,) = engine.recommend([RecommendRequest(("i",), history=(Event("i", "red mug"), Event("i", "rug")))])
    assert result.tokens.semantic > 0
    num_letters = sum(map(str.isalpha, "Bought:\n- red mug\n"))
    assert f"{num_letters} tokens of users' histories are in the semantic pool" in console.file.getvalue()


def test_a_start_that_fails_leaves_the_snapshots_that_are_there(console, shop_settings, tmp_path, monkeypatch):
    """What a part of the catalogue would leave at the end is no snapshot to put in a whole one's place."""
    taken = SnapshotSettings(where=str(tmp_path / "snapshots"), keep=1, on_stop=True)
    settings = shop_settings.model_copy(update={"snapshot": taken})
    catalogue = Catalogue({"i": Item("i", "mug")}, {"u": User("u")})
    deployment.deploy(settings, catalogue, console, model=tiny_model()).close()
    whole = sorted(path.relative_to(tmp_path) for path in tmp_path.rglob("*"))
    assert whole

    def fails(engine, catalogue, console):
        engine.put_items([Item("part", "a part of the catalogue")])
        raise KeyboardInterrupt

    monkeypatch.setattr(deployment, "fill", fails)
    monkeypatch.setattr(deployment, "_begin_restore", lambda *_: None)  # as of another model
    with pytest.raises(KeyboardInterrupt):
        deployment.deploy(settings, catalogue, console, model=tiny_model())
    assert sorted(path.relative_to(tmp_path) for path in tmp_path.rglob("*")) == whole


def test_what_exceeds_the_limits_is_left_out_and_said(console, shop_settings):
    items = [Item("good", "mug"), Item("long", "mug " * 100), Item("fine", "pan")]
    catalogue = Catalogue({item.item_id: item for item in items}, {"u": User("u")})
    limits = shop_settings.limits.model_copy(update={"max_item_tokens": 5})
    settings = shop_settings.model_copy(update={"limits": limits})
    engine = deployment.deploy(settings, catalogue, console, model=tiny_model())
    assert (engine.stats().num_items, engine.stats().num_users) == (2, 1)
    (result,) = engine.recommend([RecommendRequest(("good", "fine"), "u")])
    assert {ranked.item_id for ranked in result.ranking} == {"good", "fine"}
    printed = console.file.getvalue()
    assert "1 items or users left out" in printed
    assert "'long'" in printed


def test_nothing_to_serve(console, shop_settings):
    with pytest.raises(ValueError, match="no items"):
        deployment.deploy(shop_settings, Catalogue({}, {}), console, model=tiny_model())


def test_what_build_saves_serve_does_not_compute_again(console, shop_settings, tmp_path, monkeypatch):
    items = {item.item_id: item for item in (Item("a", "mug"), Item("b", "pan"))}
    catalogue = Catalogue(items, {"u": User("u")})
    monkeypatch.setattr(deployment, "read_catalogue", lambda settings, tell: catalogue)
    folder = tmp_path / "kv"
    deployment.build_snapshot(console, shop_settings, folder, model=tiny_model())
    assert "2 items and 1 users" in console.file.getvalue()
    restored = deployment.deploy(shop_settings, catalogue, console, snapshot=folder, model=tiny_model())
    fresh = deployment.deploy(shop_settings, catalogue, console, model=tiny_model())
    assert fresh.stats().num_misses - restored.stats().num_misses == 3
