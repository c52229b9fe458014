"""`rcjax snapshot` and `rcjax restore`, against a server whose engine is a fake."""

import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

sys.path.insert(0, str(Path(__file__).parents[1] / "serving"))

from fake_router import FakeRouter

from rcjax.commands.app import app
from rcjax.errors import InvalidRequestError
from rcjax.serving.server import Server, running_server


@pytest.fixture
def router():
    return FakeRouter("item-1")


@pytest.fixture
def admin(router):
    with running_server(Server(lambda: router)) as addresses:
        yield addresses.admin


def test_a_snapshot_is_taken_and_told(router, admin):
    result = CliRunner().invoke(app, ["snapshot", "--target", admin])
    assert result.exit_code == 0, result.output
    assert router.calls == ["snapshot"]
    assert result.output == ("snapshot 3: 10 blocks (0.0 MB), 2 of them new (0.0 MB), 1 items, 1 users, in 0.5 s\n")


def test_one_is_restored_by_its_number(router, admin):
    result = CliRunner().invoke(app, ["restore", "--target", admin, "--number", "2"])
    assert result.exit_code == 0, result.output
    assert router.calls == [("restore", 2)]
    assert "snapshot 2: 8 blocks (0.0 MB) restored, 2 were there, 1 did not fit, 1 are corrupt" in result.output


def test_what_the_server_says_is_one_line(router, admin):
    def refuse(argument):
        raise InvalidRequestError("kv_dtype is 'int8' there and 'bfloat16' here")

    router.before = refuse
    result = CliRunner().invoke(app, ["restore", "--target", admin])
    assert result.exit_code == 1
    assert result.output == "error: kv_dtype is 'int8' there and 'bfloat16' here\n"


def test_a_token_goes_to_this_machine_only(tmp_path):
    (tmp_path / "token").write_text("secret\n")
    result = CliRunner().invoke(app, ["snapshot", "--target", "10.0.0.1:1", "--token-file", str(tmp_path / "token")])
    assert result.exit_code == 1
    assert "a token does not go to 10.0.0.1:1 unencrypted" in result.output
