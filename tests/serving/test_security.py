"""Who gets in by a token, over every kind of RPC, through a real channel; and who the server takes them for."""

from dataclasses import replace
from pathlib import Path

import grpc
import pytest
from credentials_kit import TOKENS, replaced, write_tokens
from google.rpc import error_details_pb2
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc
from grpc_status import rpc_status
from secured import DELETE, SHOP, TIMEOUT_S, calling, serving

from rcjax.errors import UnauthenticatedError
from rcjax.serving import caller as caller_module
from rcjax.serving.caller import Caller, current_caller
from rcjax.serving.security import ServerSecurity, new_channel
from rcjax.serving.security.tokens import CHECK_EVERY_S
from rcjax.serving.status import from_rpc_error
from rcjax.serving.v1 import rcjax_pb2


def kinds() -> list[tuple[str, str, str]]:
    """Every method of the API and of reflection: its port, name and kind."""
    ours = rcjax_pb2.DESCRIPTOR.services_by_name
    services = [("admin" if name == "Admin" else "main", service) for name, service in ours.items()]
    reflection = reflection_pb2.DESCRIPTOR.services_by_name["ServerReflection"]
    services += [("main", reflection), ("admin", reflection)]
    return [
        (
            port,
            f"/{service.full_name}/{method.name}",
            f"{'stream' if method.client_streaming else 'unary'}_{'stream' if method.server_streaming else 'unary'}",
        )
        for port, service in services
        for method in service.methods
    ]


def test_all_four_kinds_but_one_are_among_the_methods() -> None:
    assert {kind for _, _, kind in kinds()} >= {"unary_unary", "stream_stream"}


BAD_METADATA = {
    "no token": None,
    "a wrong token": [("authorization", f"Bearer {TOKENS['shop'][:-1]}")],
    "another scheme": [("authorization", f"Basic {TOKENS['shop']}")],
    "no scheme": [("authorization", TOKENS["shop"])],
    "an empty token": [("authorization", "Bearer ")],
    "two tokens": [("authorization", f"Bearer {TOKENS['shop']}"), ("authorization", f"Bearer {TOKENS['mail']}")],
}


def test_without_a_token_nothing_but_health_is_answered_on_either_port(tmp_path: Path) -> None:
    security = ServerSecurity.of(tokens=write_tokens(tmp_path / "tokens", TOKENS))
    with serving(security) as (addresses, engine):
        num_refused = 0
        for port in ("main", "admin"):
            with calling(getattr(addresses, port), None) as call:
                for metadata in BAD_METADATA.values():
                    for _, method, kind in [one for one in kinds() if one[0] == port]:
                        with pytest.raises(grpc.RpcError) as caught:
                            call(method, b"\xff not a message", metadata, kind)
                        assert caught.value.code() == grpc.StatusCode.UNAUTHENTICATED, (method, caught.value.details())
                        num_refused += 1
                request = health_pb2.HealthCheckRequest().SerializeToString()
                (answer,) = call("/grpc.health.v1.Health/Check", request)
                assert health_pb2.HealthCheckResponse.FromString(answer).status == 1
        assert engine.calls == []
        assert security.interceptor.num_refused == num_refused
        assert num_refused >= 13 * len(BAD_METADATA)


def test_a_refusal_has_the_details_of_every_error(tmp_path: Path) -> None:
    security = ServerSecurity.of(tokens=write_tokens(tmp_path / "tokens", TOKENS))
    with serving(security) as (addresses, _), calling(addresses.main, None) as call:
        with pytest.raises(grpc.RpcError) as caught:
            call(DELETE, metadata=[("authorization", "Bearer of-bad-news")])
        (detail,) = rpc_status.from_call(caught.value).details
        info = error_details_pb2.ErrorInfo()
        assert detail.Unpack(info)
        assert info.reason == "UNAUTHENTICATED"
        error = from_rpc_error(caught.value)
        assert isinstance(error, UnauthenticatedError)
        assert "of-bad-news" not in error.message


def test_with_its_token_a_caller_is_known_in_every_kind_of_rpc(tmp_path: Path) -> None:
    with serving(ServerSecurity.of(tokens=write_tokens(tmp_path / "tokens", TOKENS))) as (addresses, engine):
        message = rcjax_pb2.DeleteUserRequest(user_id="ann").SerializeToString()
        for name in ("shop", "mail"):
            with calling(addresses.main, replace(SHOP, token=TOKENS[name])) as call:
                call(DELETE, message)
        with calling(addresses.main, None) as call:
            call(DELETE, message, [("authorization", f"bearer {TOKENS['shop']}")])
        assert [caller.name for caller in engine.callers] == ["shop", "mail", "shop"]
        for port in ("main", "admin"):
            with new_channel(getattr(addresses, port), SHOP) as channel:
                request = reflection_pb2.ServerReflectionRequest(list_services="")
                stub = reflection_pb2_grpc.ServerReflectionStub(channel)
                (answer,) = stub.ServerReflectionInfo(iter([request]), timeout=TIMEOUT_S)
                assert answer.list_services_response.service


def test_without_security_everybody_is_anonymous() -> None:
    with serving(ServerSecurity.of()) as (addresses, engine), calling(addresses.main, None) as call:
        call(DELETE, rcjax_pb2.DeleteUserRequest(user_id="ann").SerializeToString())
        assert engine.callers == [Caller("anonymous")]
    assert current_caller() == caller_module.ANONYMOUS


def test_a_token_file_is_replaced_while_calls_go_on(tmp_path: Path) -> None:
    class Clock:
        now_s = 0.0

    path = write_tokens(tmp_path / "tokens", TOKENS)
    message = rcjax_pb2.DeleteUserRequest(user_id="ann").SerializeToString()
    with (
        serving(ServerSecurity.of(tokens=path, clock=lambda: Clock.now_s)) as (addresses, engine),
        calling(addresses.main, SHOP) as old,
        calling(addresses.main, replace(SHOP, token="new-0123456789-0123456789")) as new,
    ):
        old(DELETE, message)
        with pytest.raises(grpc.RpcError, match="UNAUTHENTICATED"):
            new(DELETE, message)
        write_tokens(path, {"shop": "new-0123456789-0123456789"})
        Clock.now_s += CHECK_EVERY_S
        new(DELETE, message)
        with pytest.raises(grpc.RpcError, match="UNAUTHENTICATED"):
            old(DELETE, message)
        replaced(path, b"broken")
        Clock.now_s += CHECK_EVERY_S
        new(DELETE, message)
        assert [caller.name for caller in engine.callers] == ["shop"] * 3


def test_health_needs_no_token_but_what_looks_like_it_does(tmp_path: Path) -> None:
    security = ServerSecurity.of(tokens=write_tokens(tmp_path / "tokens", TOKENS))
    with serving(security) as (addresses, _), new_channel(addresses.main) as channel:
        watch = health_pb2_grpc.HealthStub(channel).Watch(health_pb2.HealthCheckRequest(), timeout=TIMEOUT_S)
        assert next(watch).status == 1
        watch.cancel()
        for method in ("/grpc.health.v1.Healthy/Check", "/rcjax.v1.None/Such"):
            with pytest.raises(grpc.RpcError, match="UNAUTHENTICATED"):
                channel.unary_unary(method)(b"", timeout=TIMEOUT_S)
