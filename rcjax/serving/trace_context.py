"""What a client sends along so that its request is part of its trace."""

import sys

Metadata = tuple[tuple[str, str], ...]


def outgoing_metadata() -> Metadata:
    """The current span's W3C trace context; nothing where there is none.

    A process that has not imported OpenTelemetry has no span, so it is not imported here.
    """
    propagation = sys.modules.get("opentelemetry.trace.propagation.tracecontext")
    if propagation is None:
        return ()
    carrier: dict[str, str] = {}
    propagation.TraceContextTextMapPropagator().inject(carrier)
    return tuple(carrier.items())
