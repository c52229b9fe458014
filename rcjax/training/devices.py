"""The devices that training runs on: who has which part of the weights and of a pass."""

from collections.abc import Sequence
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from jaxtyping import Array

from rcjax.training.collation import TrainBatch


class TrainDevices:
    """A mesh of two axes: rows of a pass are split over `data`; heads, ffn and vocabulary over `tensor`."""

    def __init__(self, devices: Sequence[jax.Device], tensor_parallel: int):
        if len(devices) % tensor_parallel:
            raise ValueError(f"{tensor_parallel=} must divide the {len(devices)} devices there are")
        self.mesh = Mesh(np.array(devices).reshape(-1, tensor_parallel), ("data", "tensor"))
        self.replicated = NamedSharding(self.mesh, PartitionSpec())

    def split(self, batch: TrainBatch) -> TrainBatch:
        """The pass with its rows on the devices, split where their number divides."""
        num_data = self.mesh.shape["data"]

        def put(x: Any) -> Array:
            is_split = x.shape[0] % num_data == 0
            return jax.device_put(x, NamedSharding(self.mesh, PartitionSpec("data")) if is_split else self.replicated)

        return jax.tree.map(put, batch)
