"""Eight fake CPU devices, so that sharded code runs as it would on a mesh, and programs that are compiled fast."""

import gc
import os
from importlib.metadata import version
from pathlib import Path

import array_checks
import pytest
from hypothesis import settings

os.environ.setdefault("JAX_PLATFORMS", "cpu")
flags = [os.environ.get("XLA_FLAGS", ""), "--xla_force_host_platform_device_count=8"]
# Tests compile hundreds of small programs and run each a few times. Without optimisation a training step compiles in
# 2.4 s instead of 15 (CPU time). RCJAX_TEST_OPTIMIZED=1 tests the code that serves.
if not os.environ.get("RCJAX_TEST_OPTIMIZED"):
    flags.append("--xla_backend_optimization_level=0")
    if version("jaxlib").startswith("0.10."):
        flags.append("--xla_cpu_use_fusion_emitters=false")  # jax 0.12 does not know it, and an unknown flag aborts
os.environ["XLA_FLAGS"] = " ".join(flags)

array_checks.install(Path(__file__).parent.parent / "rcjax")
gc.set_threshold(100_000, 50, 50)  # JAX's traces and programs are many objects, and live as long as a file's tests

settings.register_profile("rcjax", deadline=None)  # hypothesis would fail what a busy machine runs late
settings.load_profile("rcjax")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The files of training first: the slowest must not be the last, which one process runs while the others wait."""
    items.sort(key=lambda item: item.path.parent.name != "training")


@pytest.hookimpl(tryfirst=True)
def pytest_sessionfinish() -> None:
    """One collection of what is left, for which pytest would make ten: it looks for exceptions in destructors."""
    gc.collect()
    gc.freeze()


@pytest.fixture(scope="session", autouse=True)
def compilation_cache(tmp_path_factory):
    """One for the run, in place of the user's: processes side by side do not compile what another has compiled."""
    from rcjax.config import Settings
    from rcjax.engine.compilation import use_compilation_cache

    folder = tmp_path_factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:
        folder = folder.parent
    os.environ["XDG_CACHE_HOME"] = str(folder / "cache")
    use_compilation_cache(Settings().compilation_cache_dir())
