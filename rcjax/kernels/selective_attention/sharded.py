"""The operator on a mesh: each device attends with its own heads, by whichever implementation was chosen.

XLA cannot split a kernel among devices by itself: it would gather a whole pool on each. Heads are independent of one
another, so that only the sums of `mass` need communication.
"""

from dataclasses import dataclass
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jax.sharding import AbstractMesh, Mesh, PartitionSpec
from jaxtyping import Array, Bool, Float, Int

from rcjax.kernels.arrays import AnyArray
from rcjax.kernels.kv import PagedKV
from rcjax.kernels.selective_attention.api import Attend, Attention, Measure
from rcjax.kernels.selective_attention.layout import PageLayout, Rope, TokenLayout


def sharded_heads(attention: Attention, mesh: Mesh | AbstractMesh, axis: str = "tensor") -> Attention:
    """The same implementation, on the devices of `mesh` (or of one like it), with the heads split over `axis`.

    Kv heads are split evenly, and with each go its query heads: device i of n has `k_new[:, :, i * K // n : ...]` and
    so on. Layouts are the same on every device, as are all arrays along the mesh's other axes. ValueError where the
    mesh has no such axis or, as a pass is traced, where the kv heads do not divide.
    """
    if axis not in mesh.shape:
        raise ValueError(f"{axis=} is not one of the mesh, which has {', '.join(mesh.axis_names)}")
    return Attention(
        attention.name,
        attention.make_view,
        ShardedAttend(attention.attend, mesh, axis),
        ShardedMeasure(attention.measure, mesh, axis),
    )


@dataclass(frozen=True, slots=True)
class ShardedAttend:
    """`Attention.__call__`."""

    attend: Attend
    mesh: Mesh | AbstractMesh
    axis: str

    def __call__(
        self,
        view: Any,
        q: Float[Array, "B T N H"],
        k_new: Float[Array, "B T K H"],
        v_new: Float[Array, "B T K H"],
        kv: PagedKV,
        first_page: Int[AnyArray, ""] | int,
    ) -> Float[Array, "B T N H"]:
        heads, whole = _specs(k_new, self.mesh, self.axis)
        specs = (whole, heads, heads, heads, heads, whole)
        run = jax.shard_map(self.attend, mesh=self.mesh, in_specs=specs, out_specs=heads, check_vma=False)
        return run(view, q, k_new, v_new, kv, jnp.asarray(first_page, jnp.int32))


@dataclass(frozen=True, slots=True)
class ShardedMeasure:
    """`Attention.mass`."""

    measure: Measure
    mesh: Mesh | AbstractMesh
    axis: str

    def __call__(
        self,
        q: Float[Array, "B T N H"],
        k_new: Float[Array, "B T K H"],
        tokens: TokenLayout,
        counts: Bool[AnyArray, "B T"],
        kv: PagedKV,
        pages: PageLayout,
        *,
        rope: Rope,
        window: int | None,
    ) -> tuple[Float[Array, "B M C"], Float[Array, "B T"]]:
        heads, whole = _specs(k_new, self.mesh, self.axis)
        measure = partial(self.measure, rope=rope, window=window)

        def of_all_heads(*args: Any) -> tuple[Array, Array]:
            return lax.psum(measure(*args), self.axis)

        specs = (heads, heads, whole, whole, heads, whole)
        run = jax.shard_map(of_all_heads, mesh=self.mesh, in_specs=specs, out_specs=whole, check_vma=False)
        return run(q, k_new, tokens, counts, kv, pages)


def _specs(k_new: Array, mesh: Mesh | AbstractMesh, axis: str) -> tuple[PartitionSpec, PartitionSpec]:
    """Of what has heads, always as its third axis (pages and their scales too), and of what is whole on each device.

    Which of these vary among devices is not checked (`check_vma`): loops within the implementations start from
    constants, and interpreted kernels from buffers, that do not say so.
    """
    kv_heads, devices = k_new.shape[2], mesh.shape[axis]
    if kv_heads % devices:
        fit = [n for n in range(1, kv_heads + 1) if kv_heads % n == 0]
        raise ValueError(
            f"{kv_heads} kv heads cannot be split evenly over the {devices} devices of the mesh's axis {axis!r}; "
            f"take a number of devices that divides them, one of {fit}"
        )
    return PartitionSpec(None, None, axis), PartitionSpec()
