"""The arrays that public functions take, and records of them that pass through JAX."""

from dataclasses import fields
from typing import Any, TypeVar

import jax
import numpy as np
from jaxtyping import Array

AnyArray = Array | np.ndarray  # NumPy on the host, JAX once a pass takes it

T = TypeVar("T")


def register_arrays(cls: type[T]) -> type[T]:
    """Makes a dataclass of arrays a pytree.

    Unlike `jax.tree_util.register_dataclass` it rebuilds one without `__init__`: while JAX lowers a function or maps
    over a tree, the fields hold shapes or other placeholders, which a check of the fields' types would refuse.
    """
    names = [field.name for field in fields(cls)]  # type: ignore[arg-type]

    def flatten(record: T) -> tuple[list[Any], None]:
        return [getattr(record, name) for name in names], None

    def flatten_with_keys(record: T) -> tuple[list[tuple[Any, Any]], None]:
        return [(jax.tree_util.GetAttrKey(name), getattr(record, name)) for name in names], None

    def unflatten(_: None, values: Any) -> T:
        record = object.__new__(cls)
        for name, value in zip(names, values, strict=True):
            object.__setattr__(record, name, value)
        return record

    jax.tree_util.register_pytree_with_keys(cls, flatten_with_keys, unflatten, flatten)
    return cls
