"""What gRPC is told of the limits of a connection."""

from rcjax.config.limits import Limits


def connection_options(limits: Limits) -> list[tuple[str, int]]:
    """The options of a server; times in the settings are seconds, gRPC takes milliseconds."""
    keepalive = limits.keepalive
    times_s = {
        "grpc.keepalive_time_ms": keepalive.ping_s,
        "grpc.keepalive_timeout_ms": keepalive.timeout_s,
        "grpc.http2.min_ping_interval_without_data_ms": keepalive.min_ping_s,
        "grpc.max_connection_idle_ms": keepalive.max_idle_s,
        "grpc.max_connection_age_ms": keepalive.max_age_s,
        "grpc.max_connection_age_grace_ms": keepalive.age_grace_s,
    }
    return [
        ("grpc.max_receive_message_length", int(limits.max_message_bytes)),
        ("grpc.max_concurrent_streams", limits.max_streams),
        ("grpc.keepalive_permit_without_calls", 1),
        *((name, round(1000 * time_s)) for name, time_s in times_s.items() if time_s is not None),
    ]
