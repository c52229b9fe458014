"""Settings of a cluster: hosts that Ray runs, each with the slices of `mesh`."""

from pydantic import Field

from rcjax.config.strict import StrictModel


class ClusterSettings(StrictModel):
    """What `rcjax serve --cluster` asks of Ray, and what is sent between hosts; without that option nothing of it is
    looked at."""

    hosts: int = Field(1, ge=1)
    """Hosts that are started where none runs yet; `local:N` says it itself."""
    max_hosts: int = Field(16, ge=1, le=1024)
    """The most hosts there may ever be at the same time; each may have a part of what is placed by hash."""
    cpus: float = Field(1.0, ge=0, allow_inf_nan=False)
    """Cores that Ray sets aside for a host."""
    device: str | None = Field(None, min_length=1)
    """The Ray resource that counts a host's devices, such as `GPU` or `TPU`; a host takes `mesh.slices` times
    `mesh.tensor` of it, on one node. null: it takes none."""
    resources: dict[str, float] = Field(default_factory=dict)
    """Further Ray resources that a host takes, such as `{accelerator_type:H100: 0.001}`, to choose its node."""
    transfer_bytes: float = Field(2**29, ge=0, allow_inf_nan=False)
    """KV that a host copies for others at the same time; whoever asks for more computes it. 0: hosts share none."""
    stall_s: float = Field(3.0, gt=0, allow_inf_nan=False)
    """A host that says nothing for so long gets no requests until it does; what it had is tried on others."""
