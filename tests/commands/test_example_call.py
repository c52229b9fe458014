"""The lines that `rcjax serve` prints and those of the docs, called as they stand."""

import shutil
from pathlib import Path

import grpc
import pytest
from credentials_kit import TOKENS, Authority, write_tokens
from fake_router import FakeRouter
from grpcurl_line import call, words_of
from typer.testing import CliRunner

from rcjax.catalog import Catalogue, Item, Request, User
from rcjax.commands.app import app
from rcjax.commands.example_call import example_lines, example_request
from rcjax.config import ServerSettings
from rcjax.request import RecommendRequest
from rcjax.serving.security import ServerSecurity
from rcjax.serving.server import Server, running_server

DOCS = Path(__file__).parents[2] / "docs" / "operations.md"
REQUEST = RecommendRequest(("item-00001", "item-00003"), "test-00000")


def router() -> FakeRouter:
    engine = FakeRouter(*(f"item-0000{n}" for n in range(5)))
    engine.users["test-00000"] = ()
    return engine


def documented_lines() -> list[str]:
    """The examples, each with the lines that follow until the next."""
    lines: list[str] = []
    for line in DOCS.read_text(encoding="utf-8").splitlines():
        if line.startswith("    grpcurl "):
            lines.append(line.strip())
        elif lines and line.startswith("      "):
            lines[-1] += "\n" + line.strip()
        elif lines and not line.startswith("    "):
            break
    return lines


def test_the_docs_examples_are_answered(tmp_path):
    authority = Authority(tmp_path / "ca")
    shutil.copy(authority.file, tmp_path / "CA.pem")
    (tmp_path / "TOKEN_FILE").write_text(TOKENS["shop"] + "\n")
    guarded = ServerSecurity.of(authority.server(), write_tokens(tmp_path / "tokens", TOKENS))
    lines = documented_lines()
    engine = router()
    engine.arms = ("full",)
    with (
        running_server(Server(lambda: engine)) as open_to_all,
        running_server(Server(router, security=guarded)) as secured,
    ):
        places = {
            "127.0.0.1:50051": open_to_all.main,
            "127.0.0.1:50052": open_to_all.admin,
            "server.example:50052": secured.admin.replace("127.0.0.1", "localhost"),
        }
        answers = [call(line, tmp_path, places) for line in lines]
    services, fields, health, info, ranked, put, appended, inline, stats = answers
    assert "rcjax.v1.Recommender" in services
    assert "candidates" in fields
    assert health == {"status": "SERVING"}
    assert info["model"] == "fake"
    assert [entry["item_id"] for entry in ranked["ranking"]] == ["item-00002", "item-00001"]
    assert engine.items["mug-1"] == Item("mug-1", "Blue mug", categories=("Kitchen",), price=9.5)
    assert [event.rating for event in engine.users["test-00000"]] == [4.5]
    assert [len(answer["ranking"]) for answer in (ranked, inline)] == [2, 1]
    assert isinstance(put, dict)
    assert isinstance(appended, dict)
    assert stats


@pytest.mark.parametrize("is_guarded", [False, True])
def test_the_printed_lines_are_answered(tmp_path, monkeypatch, is_guarded):
    security, settings = ServerSecurity.of(), ServerSettings()
    if is_guarded:
        authority = Authority(tmp_path)
        tokens = write_tokens(tmp_path / "tokens", TOKENS)
        files = authority.server(with_clients=True)
        security = ServerSecurity.of(files, tokens)
        settings = ServerSettings(
            tls={"cert": files.cert, "key": files.key, "client_ca": files.client_ca}, tokens=tmp_path / "tokens"
        )
        client = authority.client("shop.example")
        for name, path in (("CA.pem", authority.file), ("CLIENT.pem", client.cert), ("CLIENT.key", client.key)):
            shutil.copy(path, tmp_path / name)
        (tmp_path / "TOKEN_FILE").write_text(TOKENS["shop"])
    (tmp_path / "my shop.yaml").write_text("dtype: auto")
    monkeypatch.chdir(tmp_path)
    with running_server(Server(router, security=security)) as addresses:
        grpcurl, rank = example_lines(REQUEST, addresses.main, settings, Path("my shop.yaml"))
        answer = call(grpcurl, tmp_path)
        assert [entry["item_id"] for entry in answer["ranking"]] == ["item-00003", "item-00001"]
        program, *words = words_of(rank, tmp_path)
        assert program == "rcjax"
        result = CliRunner().invoke(app, words)
        assert result.exit_code == 0, result.output
        assert result.output.index("item-00003") < result.output.index("item-00001")
        if is_guarded:
            assert TOKENS["shop"] not in grpcurl + rank
            with pytest.raises(grpc.RpcError, match="UNAUTHENTICATED"):
                call(grpcurl.replace("Bearer", "Basic"), tmp_path)


def test_the_request_is_one_that_the_server_can_answer():
    items = {name: Item(name, name) for name in "abcde"}
    users = {name: User(name) for name in ("u", "v")}
    asked = (Request("gone", ("a", "b")), Request("u", ("x", "e", "d", "c", "b")))
    catalogue = Catalogue(items, users, asked)
    assert example_request(catalogue, items, users, 100) == RecommendRequest(("e", "d", "c"), "u")
    assert example_request(catalogue, {"d"}, {"u"}, 100) == RecommendRequest(("d",), "u")
    assert example_request(Catalogue(items, users), set(items) - {"a"}, {"v"}, 2) == RecommendRequest(("b", "c"), "v")
    assert example_request(catalogue, {"a"}, set(), 100) == RecommendRequest(("a",), history=())
    assert example_request(catalogue, set(), {"u"}, 100) is None


def test_ids_of_any_text_survive_the_shell(tmp_path):
    odd = ('it\'s $(date) "1" -1', "茶 \\ -2")
    with running_server(Server(lambda: FakeRouter(*odd))) as addresses:
        lines = example_lines(RecommendRequest(odd, history=()), addresses.main, ServerSettings())
        (line,) = lines  # `rcjax rank` asks for a user
        assert [entry["item_id"] for entry in call(line, tmp_path)["ranking"]] == [odd[1], odd[0]]
    (line,) = example_lines(RecommendRequest(("a,b",), "u"), "127.0.0.1:1", ServerSettings())
    assert line.startswith("grpcurl ")


@pytest.mark.parametrize(
    ("address", "target"), [("0.0.0.0:7", "127.0.0.1:7"), ("[::]:7", "[::1]:7"), ("10.0.0.1:7", "10.0.0.1:7")]
)
def test_a_server_that_listens_everywhere_is_called_here(address, target):
    grpcurl, rank = example_lines(REQUEST, address, ServerSettings())
    assert f" {target} rcjax.v1" in grpcurl.replace("'", "")
    assert rank.replace("'", "").endswith(f"--target {target}")
