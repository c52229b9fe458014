"""The devices that an engine runs on: which of them make up each slice, and the weights on each."""

import jax
from jax.sharding import Mesh

from rcjax.config import MeshSettings
from rcjax.model.config import ModelConfig
from rcjax.model.decoder import Params
from rcjax.model.sharding import mesh_of_slices, param_shardings, slice_meshes
from rcjax.model.spec import Model, Shardings


def engine_mesh(settings: MeshSettings) -> Mesh | None:
    """The mesh of axes "slice" and "tensor"; None where one device is asked for: nothing is sharded then.

    Call it before anything else uses JAX, whose CPU cannot be divided later. ValueError where devices lack.
    """
    if settings.cpu_devices is not None:
        _divide_cpu(settings.cpu_devices)
    if settings.num_devices == 1:
        return None
    devices = jax.devices()
    if settings.num_devices > len(devices):
        raise ValueError(
            f"mesh.slices={settings.slices} times mesh.tensor={settings.tensor} is {settings.num_devices} devices, of "
            f"which there are {len(devices)} ({devices[0].platform}); make one of the two smaller"
            + (", or set mesh.cpu_devices to pose the CPU as more" if devices[0].platform == "cpu" else "")
        )
    return mesh_of_slices(devices[: settings.num_devices], settings.slices)


def _divide_cpu(num_devices: int) -> None:
    try:
        jax.config.update("jax_num_cpu_devices", num_devices)
    except RuntimeError:  # JAX runs already; whether there are enough is checked as for any other device
        if len(jax.devices("cpu")) < num_devices:
            raise ValueError(
                f"mesh.cpu_devices={num_devices} comes too late: this process uses JAX already, with "
                f"{len(jax.devices('cpu'))} CPU devices; start the engine first, in a new process"
            ) from None


def first_slice(settings: MeshSettings) -> Shardings | None:
    """How `load_model` shall place the weights: on the first slice's devices, or on the default one."""
    mesh = engine_mesh(settings)
    if mesh is None:
        return None
    return lambda config: _shardings(config, slice_meshes(mesh)[0])


def on_slices(model: Model, mesh: Mesh | None) -> tuple[Params, ...]:
    """The weights for each slice, on its devices; what is there already is not copied."""
    if mesh is None:
        return (model.params,)
    return tuple(jax.device_put(model.params, _shardings(model.config, devices)) for devices in slice_meshes(mesh))


def _shardings(config: ModelConfig, devices: Mesh) -> Params:
    """ValueError where the kv heads cannot be split."""
    if config.num_kv_heads % devices.size:
        fit = [n for n in range(1, config.num_kv_heads + 1) if config.num_kv_heads % n == 0]
        raise ValueError(
            f"mesh.tensor={devices.size} does not divide this model's {config.num_kv_heads} kv heads, which are split "
            f"over the devices of a slice; set it to one of {fit}, and mesh.slices higher instead"
        )
    return param_shardings(config, devices)
