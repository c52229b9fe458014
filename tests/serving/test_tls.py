"""Certificates of servers and of clients, good, foreign, expired, broken and renewed, through real channels."""

import logging
from contextlib import nullcontext
from dataclasses import replace
from functools import partial
from pathlib import Path

import grpc
import pytest
from credentials_kit import LONG_AGO, TOKENS, Authority, replaced, write_tokens
from secured import DELETE, SHOP, TIMEOUT_S, calling, serving

from rcjax.errors import UnauthenticatedError
from rcjax.serving.caller import Caller
from rcjax.serving.client import RecommenderClient
from rcjax.serving.security import ChannelSecurity, ServerSecurity, new_channel
from rcjax.serving.security.certificates import Certificates
from rcjax.serving.security.interceptor import certified
from rcjax.serving.server import Addresses
from rcjax.serving.v1 import rcjax_pb2


def delete(addresses: Addresses, security: ChannelSecurity | None) -> None:
    with calling(addresses.main, security) as call:
        call(DELETE, rcjax_pb2.DeleteUserRequest(user_id="ann").SerializeToString())


def refused(addresses: Addresses, security: ChannelSecurity | None) -> None:
    """That no connection comes about, as gRPC says it: the call cannot be sent."""
    with pytest.raises(grpc.RpcError) as caught:
        delete(addresses, security)
    assert caught.value.code() == grpc.StatusCode.UNAVAILABLE


def test_tls_is_for_those_who_trust_its_ca(tmp_path: Path) -> None:
    ours, others = Authority(tmp_path / "ours"), Authority(tmp_path / "others")
    with serving(ServerSecurity.of(ours.server())) as (addresses, engine):
        delete(addresses, ChannelSecurity(ca=ours.file))
        refused(addresses, ChannelSecurity(ca=others.file))
        refused(addresses, None)
        delete(addresses, ChannelSecurity(ca=ours.file))
        assert engine.callers == [Caller("anonymous")] * 2


def test_a_clients_certificate_names_it_and_one_that_lacks_or_has_expired_keeps_it_out(tmp_path: Path) -> None:
    ours, others = Authority(tmp_path / "ours"), Authority(tmp_path / "others")
    with serving(ServerSecurity.of(ours.server(with_clients=True))) as (addresses, engine):
        delete(addresses, ours.client("shop.example", common_name="shop"))
        delete(addresses, ours.client("mail.example"))
        refused(addresses, ChannelSecurity(ca=ours.file))
        refused(addresses, replace(others.client("shop.example", common_name="shop"), ca=ours.file))
        refused(addresses, ours.client("shop.example", common_name="shop", not_after=LONG_AGO))
        delete(addresses, ours.client("shop.example", common_name="shop"))
        assert [caller.name for caller in engine.callers] == ["shop", "mail.example", "shop"]


def test_with_both_a_certificate_is_needed_and_the_token_names(tmp_path: Path) -> None:
    ours = Authority(tmp_path / "ours")
    security = ServerSecurity.of(ours.server(with_clients=True), write_tokens(tmp_path / "tokens", TOKENS))
    with serving(security) as (addresses, engine):
        delete(addresses, replace(ours.client("x.example", common_name="x"), token=TOKENS["mail"]))
        refused(addresses, ChannelSecurity(ca=ours.file, token=TOKENS["mail"]))
        with pytest.raises(grpc.RpcError, match="UNAUTHENTICATED"):
            delete(addresses, ours.client("x.example", common_name="x"))
        assert engine.callers == [Caller("mail")]


def test_an_expired_certificate_is_replaced_while_the_server_serves(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    ours = Authority(tmp_path / "ours")
    security = ChannelSecurity(ca=ours.file)
    files = ours.server(not_after=LONG_AGO)
    with serving(ServerSecurity.of(files)) as (addresses, engine):
        refused(addresses, security)
        ours.server()
        delete(addresses, security)
        replaced(files.key, b"-----BEGIN PRIVATE KEY-----\n")
        delete(addresses, security)
        files.cert.unlink()
        delete(addresses, security)
        assert [record.levelno for record in caplog.records if "stays in use" in record.message] == [logging.ERROR] * 2
        ours.server(not_after=LONG_AGO)
        refused(addresses, security)
        ours.server()
        delete(addresses, security)
        assert len(engine.callers) == 4


@pytest.mark.parametrize(
    ("broken", "problem"),
    [
        ("cert", r"cert .*server\.pem and key .*server\.key are not a certificate and its own"),
        ("key", "its own, unencrypted key"),
        ("client_ca", r"client_ca .*ca\.pem has no certificate"),
    ],
)
def test_files_that_are_no_certificates_are_refused_by_name(tmp_path: Path, broken: str, problem: str) -> None:
    files = Authority(tmp_path / "ours").server(with_clients=True)
    getattr(files, broken).write_bytes(b"something else")
    with pytest.raises(ValueError, match=problem):
        ServerSecurity.of(files)
    getattr(files, broken).unlink()
    with pytest.raises(ValueError, match=r"server\.tls: cannot read .*: No such file"):
        ServerSecurity.of(files)


def test_files_are_read_once_for_each_change(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    ours = Authority(tmp_path / "ours")
    certificates = Certificates(ours.server())
    assert certificates.renewed() is None
    files = ours.server()
    assert certificates.renewed() is not None
    assert certificates.renewed() is None
    for damage in (lambda: replaced(files.cert, b"no certificate"), files.cert.unlink):
        caplog.clear()
        damage()
        assert [certificates.renewed() for _ in range(3)] == [None] * 3
        assert [record.levelno for record in caplog.records] == [logging.ERROR]
    ours.server()
    assert certificates.renewed() is not None


def test_a_key_of_another_certificate_is_refused(tmp_path: Path) -> None:
    ours, others = Authority(tmp_path / "ours").server(), Authority(tmp_path / "others").server()
    with pytest.raises(ValueError, match="not a certificate and its own"):
        ServerSecurity.of(replace(ours, key=others.key))


def test_a_certificate_without_names_is_a_caller_too() -> None:
    assert certified({}).name
    assert certified({"x509_common_name": [b"", b"\xff"]}).name == "\ufffd"


# ---- the client's side


def test_the_client_calls_over_tls_with_its_token(tmp_path: Path) -> None:
    ours = Authority(tmp_path / "ours")
    security = ServerSecurity.of(ours.server(with_clients=True), write_tokens(tmp_path / "tokens", TOKENS))
    with_token = replace(ours.client("x.example"), token=TOKENS["shop"])
    with serving(security) as (addresses, engine):
        for shown, is_let_in in ((with_token, True), (replace(with_token, token=""), False)):
            connect = partial(new_channel, security=shown)
            with RecommenderClient(addresses.main, addresses.admin, connect=connect) as client:
                client.wait_ready(TIMEOUT_S)
                for call in (lambda: client.delete_user("nobody"), client.info):
                    with nullcontext() if is_let_in else pytest.raises(UnauthenticatedError):
                        call()
        assert engine.callers == [Caller("shop")]


def test_a_token_goes_unencrypted_to_this_machine_only() -> None:
    for target in ("127.0.0.1:1", "[::1]:1", "localhost:1"):
        new_channel(target, SHOP).close()
    for target in ("example.com:1", "10.0.0.1:1", "127.0.0.1.example.com:1"):
        with pytest.raises(ValueError, match="unencrypted"):
            new_channel(target, SHOP)


def test_a_channels_security_has_both_files_or_neither_and_shows_no_token(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="belong together"):
        ChannelSecurity(cert=tmp_path)
    with pytest.raises(ValueError, match="tls is False"):
        ChannelSecurity(ca=tmp_path, tls=False)
    assert TOKENS["shop"] not in f"{SHOP} {SHOP!r}"
