"""Settings of the gRPC server."""

from pydantic import Field

from rcjax.config.strict import StrictModel


class ServerSettings(StrictModel):
    """Where the server listens, how many requests and how many writes may be under way, and what plans them."""

    host: str = "127.0.0.1"
    port: int = Field(50051, ge=0, le=65535)
    admin_port: int = Field(50052, ge=0, le=65535)
    max_queue: int = Field(256, ge=1)
    planner_threads: int = Field(1, ge=1)
    grace_s: float = Field(10.0, ge=0)
