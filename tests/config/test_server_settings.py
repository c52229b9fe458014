"""Where a server may listen, with which files, and what its limits become."""

from dataclasses import fields
from pathlib import Path

import pytest

from rcjax.config import ArmSettings, Limits, ServerSettings, Settings, load_settings
from rcjax.loopback import is_loopback
from rcjax.request import ServiceLimits
from rcjax.serving.connection_options import connection_options

TLS = {"cert": "server.pem", "key": "/etc/server.key"}


def test_admin_is_for_this_machine_unless_told_otherwise() -> None:
    settings = ServerSettings(host="0.0.0.0", tls=TLS, tokens=Path("tokens"))
    assert (settings.host, settings.admin_host) == ("0.0.0.0", "127.0.0.1")
    local = settings.for_this_process()
    assert (local.host, local.port, local.admin_port, local.tls, local.tokens) == ("127.0.0.1", 0, 0, None, None)


@pytest.mark.parametrize("name", ["host", "admin_host"])
@pytest.mark.parametrize("host", ["0.0.0.0", "::", "10.1.2.3", "shop.example"])
def test_tokens_are_not_sent_unencrypted_to_other_machines(name: str, host: str) -> None:
    with pytest.raises(ValueError, match=f"tokens would go to {name}='{host}' unencrypted.*set tls"):
        ServerSettings(**{name: host}, tokens=Path("tokens"))
    ServerSettings(**{name: host}, tokens=Path("tokens"), tls=TLS)
    ServerSettings(**{name: host})
    with pytest.raises(ValueError, match="server: tokens would go to"):
        ServerSettings(tokens=Path("tokens")).changed(**{name: host})


def test_what_is_open_to_everybody_is_known() -> None:
    everywhere = {"host": "0.0.0.0", "admin_host": "::"}
    assert ServerSettings().open_places == ()
    assert ServerSettings(**everywhere).open_places == ("host=0.0.0.0", "admin_host=::")
    assert ServerSettings(admin_host="::", tls=TLS).open_places == ("admin_host=::",)
    assert ServerSettings(**everywhere, tls=TLS, tokens=Path("tokens")).open_places == ()
    assert ServerSettings(**everywhere, tls=TLS | {"client_ca": "ca.pem"}).open_places == ()


@pytest.mark.parametrize("known_by", [{"tokens": Path("tokens")}, {"tls": TLS | {"client_ca": "ca.pem"}}])
def test_tenants_are_of_callers_that_are_known(known_by: dict[str, object]) -> None:
    settings = ServerSettings(tenants={"web": "shop"}, **known_by)
    assert settings.tenants == {"web": "shop"}
    assert settings.changed(port=8).tenants == {"web": "shop"}
    assert settings.for_this_process().tenants == {}
    with pytest.raises(ValueError, match=r"asks nobody who they are; set tokens or tls\.client_ca"):
        ServerSettings(tenants={"web": "shop"}, tls=TLS)


@pytest.mark.parametrize("name", ["", "a b", "a/b", "a\0b", "é", "x" * 65, "shop\n"])
def test_a_tenants_name_is_plain(name: str) -> None:
    with pytest.raises(ValueError, match=r"tenants\.web"):
        ServerSettings(tenants={"web": name}, tokens=Path("tokens"))


def test_tenants_and_a_semantic_pool_do_not_go_together() -> None:
    arms = {"exact": ArmSettings(), "lent": ArmSettings(reuse="blocks", history="semantic")}
    server = ServerSettings(tenants={"web": "shop", "mail": "mail"}, tokens=Path("tokens"))
    with pytest.raises(ValueError, match=r"arm 'lent' has history: semantic, .* names mail, shop; set history: exact"):
        Settings(arms=arms, default_arm="exact", server=server)
    Settings(arms={"exact": ArmSettings()}, default_arm="exact", server=server)
    Settings(arms=arms, default_arm="exact")


def test_what_the_command_line_does_not_say_stays() -> None:
    settings = ServerSettings(host="localhost", port=7, tokens=Path("tokens"))
    assert settings.changed(host=None, port=None, admin_port=8) == ServerSettings(
        host="localhost", port=7, admin_port=8, tokens=Path("tokens")
    )
    with pytest.raises(ValueError, match="server: port=70000"):
        settings.changed(port=70_000)


def test_files_are_beside_the_settings(tmp_path: Path) -> None:
    file = tmp_path / "rcjax.yaml"
    file.write_text(
        "server:\n"
        f"  tls: {{cert: server.pem, key: {TLS['key']}, client_ca: ca.pem}}\n"
        "  tokens: tokens\n"
        "  key_salt_file: salt\n"
    )
    server = load_settings(file).server
    assert server.tls is not None
    found = (server.tls.cert, server.tls.key, server.tls.client_ca, server.tokens)
    assert found == (tmp_path / "server.pem", Path(TLS["key"]), tmp_path / "ca.pem", tmp_path / "tokens")
    assert server.key_salt_file == tmp_path / "salt"
    file.write_text("server: {tls: {cert: server.pem}}\n")
    with pytest.raises(ValueError, match=r"server\.tls\.key"):
        load_settings(file)


@pytest.mark.parametrize(
    ("host", "is_local"),
    [
        ("127.0.0.1", True),
        ("127.9.9.9", True),
        ("::1", True),
        ("[::1]", True),
        ("localhost", True),
        ("0.0.0.0", False),
        ("::", False),
        ("10.0.0.1", False),
        ("localhost.example.com", False),
        ("", False),
    ],
)
def test_which_addresses_are_of_this_machine(host: str, is_local: bool) -> None:
    assert is_loopback(host) == is_local


def test_every_limit_is_a_setting() -> None:
    assert Limits().of_service() == ServiceLimits(max_top_k=Limits().max_candidates)
    names = {field.name for field in fields(ServiceLimits)} - {"min_ping_s"}
    changed = {name: 70_000 + n for n, name in enumerate(sorted(names, reverse=True))}
    limits = Limits(**changed, max_candidates=80_000, keepalive={"min_ping_s": 3})
    of_service = limits.of_service()
    assert {name: getattr(of_service, name) for name in names} == changed
    assert of_service.min_ping_s == 3


def test_a_text_that_no_message_holds_is_no_limit() -> None:
    with pytest.raises(ValueError, match="max_text_bytes=65,536 is over max_message_bytes=60,000"):
        Limits(max_message_bytes=60_000)


def test_what_grpc_is_told() -> None:
    keepalive = {"ping_s": 7.5, "timeout_s": 2, "min_ping_s": 0.5, "max_age_s": 3600, "age_grace_s": 5}
    options = dict(connection_options(Limits(max_message_bytes=2**20, max_streams=9, keepalive=keepalive)))
    assert options == {
        "grpc.max_receive_message_length": 2**20,
        "grpc.max_concurrent_streams": 9,
        "grpc.keepalive_permit_without_calls": 1,
        "grpc.keepalive_time_ms": 7500,
        "grpc.keepalive_timeout_ms": 2000,
        "grpc.http2.min_ping_interval_without_data_ms": 500,
        "grpc.max_connection_age_ms": 3_600_000,
        "grpc.max_connection_age_grace_ms": 5000,
    }
