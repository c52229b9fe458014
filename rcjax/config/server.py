"""Settings of the gRPC server."""

from pathlib import Path
from typing import Annotated

from pydantic import Field, ValidationError, model_validator

from rcjax.config.paths import in_folder
from rcjax.config.security import TlsSettings
from rcjax.config.strict import StrictModel
from rcjax.loopback import is_loopback
from rcjax.yaml_file import error_lines

TenantName = Annotated[str, Field(pattern=r"^[A-Za-z0-9._-]{1,64}$")]


class ServerSettings(StrictModel):
    """Where the server listens and to whom, and how many threads plan.

    `host` and `port` are of requests and writes, `admin_host` and `admin_port` of `Admin`. With `tokens`, a file with a
    name and a token on each line, callers show one of them. Both ports ask for the same. `tenants` names the tenant of
    callers: each has items and users of its own, and those who are not named are of the default tenant, which has the
    settings' catalogue. The bytes of `key_salt_file` go into the key of every cached block.
    """

    host: str = "127.0.0.1"
    port: int = Field(50051, ge=0, le=65535)
    admin_host: str = "127.0.0.1"
    admin_port: int = Field(50052, ge=0, le=65535)
    tls: TlsSettings | None = None
    tokens: Path | None = None
    tenants: dict[str, TenantName] = Field(default_factory=dict)
    key_salt_file: Path | None = None
    planner_threads: int = Field(1, ge=1)
    """More help where most requests bring texts to tokenise."""
    grace_s: float = Field(10.0, ge=0)
    """What calls get to finish after SIGTERM."""

    @model_validator(mode="after")
    def _tokens_are_encrypted(self) -> "ServerSettings":
        if self.tokens is None or self.tls is not None:
            return self
        for name, host in (("host", self.host), ("admin_host", self.admin_host)):
            if not is_loopback(host):
                raise ValueError(
                    f"tokens would go to {name}={host!r} unencrypted, for anybody on the way to read; set tls, or a "
                    f"{name} of this machine only, such as 127.0.0.1"
                )
        return self

    @model_validator(mode="after")
    def _callers_of_tenants_are_known(self) -> "ServerSettings":
        if self.tenants and not self.knows_callers:
            raise ValueError(
                "tenants are by caller, and this server asks nobody who they are; set tokens or tls.client_ca"
            )
        return self

    @property
    def knows_callers(self) -> bool:
        """Whether callers have to say who they are."""
        return self.tokens is not None or (self.tls is not None and self.tls.client_ca is not None)

    @property
    def open_places(self) -> tuple[str, ...]:
        """The hosts that other machines reach without having to say who they are, as `name=host`."""
        places = (("host", self.host), ("admin_host", self.admin_host))
        return () if self.knows_callers else tuple(f"{name}={host}" for name, host in places if not is_loopback(host))

    def changed(self, **given: object) -> "ServerSettings":
        """The same with what is given and not None; ValueError with a line for each that does not go with the rest."""
        changes = {name: value for name, value in given.items() if value is not None}
        try:
            return ServerSettings.model_validate(self.model_dump() | changes)
        except ValidationError as error:
            raise ValueError("\n".join(error_lines(error, "server", ServerSettings))) from error

    def for_this_process(self) -> "ServerSettings":
        """The same on free ports of this machine, without TLS, tokens and tenants: for a client in the same process."""
        local = {"host": "127.0.0.1", "port": 0, "admin_host": "127.0.0.1", "admin_port": 0}
        return self.model_copy(update=local | {"tls": None, "tokens": None, "tenants": {}})

    def in_folder(self, folder: Path) -> "ServerSettings":
        """The same with the paths that a file in `folder` means, as `Settings.in_folder` does."""
        changed: dict[str, object] = {}
        if self.tls is not None:
            changed["tls"] = self.tls.in_folder(folder)
        if self.tokens is not None:
            changed["tokens"] = in_folder(folder, self.tokens, "server.tokens")
        if self.key_salt_file is not None:
            changed["key_salt_file"] = in_folder(folder, self.key_salt_file, "server.key_salt_file")
        return self.model_copy(update=changed)
