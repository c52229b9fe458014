"""Every RPC but health: without a token that is known it goes no further, and what answers it knows the caller."""

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import replace
from types import MappingProxyType
from typing import Any

import grpc

from rcjax.errors import UnauthenticatedError
from rcjax.serving.caller import ANONYMOUS, Caller, calling
from rcjax.serving.handlers import Handle, refusing, wrapped
from rcjax.serving.security.tokens import TokenFile

_HEALTH = "/grpc.health.v1.Health/"  # for probes, which have no token


class SecurityInterceptor(grpc.aio.ServerInterceptor):
    """Makes who a token belongs to, else who a certificate names, the current caller around each RPC of every kind.

    With `tokens`, an RPC without one of them is answered UNAUTHENTICATED before its message is read; `num_refused`
    counts these. With `by_certificate` alone, the common name of the client's certificate is the caller's, or its
    first alternative name where it has none. `tenants` has the tenants of callers by name; others are of the default
    one.
    """

    def __init__(
        self,
        tokens: TokenFile | None = None,
        *,
        by_certificate: bool = False,
        tenants: Mapping[str, str] = MappingProxyType({}),
    ):
        self._tokens = tokens
        self._by_certificate = by_certificate
        self._tenants = tenants
        self.num_refused = 0

    async def intercept_service(
        self,
        continuation: Callable[[grpc.HandlerCallDetails], Awaitable[Any]],
        handler_call_details: grpc.HandlerCallDetails,
    ) -> Any:
        caller: Caller | None = None
        if handler_call_details.method.startswith(_HEALTH):
            return await continuation(handler_call_details)
        if self._tokens is not None:
            try:
                caller = self._known(self._tokens, handler_call_details.invocation_metadata)
            except UnauthenticatedError as error:
                self.num_refused += 1
                return refusing(error)
        handler = await continuation(handler_call_details)
        return None if handler is None else wrapped(handler, lambda handle: self._as_caller(handle, caller))

    def _known(self, tokens: TokenFile, metadata: Any) -> Caller:
        given = [value for key, value in metadata or () if key == "authorization"]
        scheme, _, token = given[0].partition(" ") if len(given) == 1 else ("", "", "")
        if scheme.lower() != "bearer":
            raise UnauthenticatedError("this server asks for a token: send `authorization: Bearer TOKEN` once")
        caller = tokens.caller(token.strip())
        if caller is None:
            raise UnauthenticatedError("the token is not known here; ask who runs this server for one")
        return caller

    def _as_caller(self, handle: Handle, caller: Caller | None) -> Handle:
        async def answer(request: Any, context: Any) -> Any:
            found = caller
            if found is None:
                found = certified(context.auth_context()) if self._by_certificate else ANONYMOUS
            if (tenant := self._tenants.get(found.name)) is not None:
                found = replace(found, tenant=tenant)
            with calling(found):
                return await handle(request, context)

        return answer


def certified(auth_context: Mapping[str, Any]) -> Caller:
    """The caller that a client's certificate names, of which gRPC has checked who signed it and until when it holds."""
    for key in ("x509_common_name", "x509_subject_alternative_name"):
        for value in auth_context.get(key, ()):
            if value:
                return Caller(value.decode("utf-8", errors="replace"))
    return Caller("unnamed certificate")
