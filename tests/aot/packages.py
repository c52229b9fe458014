"""Installs the compilers of CUDA and of TPUs, each in a folder of its own: `python packages.py FOLDER`.

Not in the environment that tests run in: there, JAX would load and try the plugins at each start. About 400 MB to
download, 1.2 GB on disk.
"""

import subprocess
import sys
from importlib.metadata import requires, version
from pathlib import Path

PTXAS = "nvidia-cuda-nvcc==13.5.37"  # jax[cuda13] takes any from 13.0.48 on


def wanted() -> dict[str, list[str]]:
    """By the platform's folder; of the versions that go with the JAX that is installed."""
    jax = version("jax")
    (libtpu,) = (line.split(";")[0].strip() for line in requires("jax") or () if line.startswith("libtpu"))
    return {
        "cuda": [f"jax-cuda13-plugin=={jax}", f"jax-cuda13-pjrt=={jax}", PTXAS],
        "tpu": [libtpu],
    }


def main() -> None:
    folder = Path(sys.argv[1])
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--no-deps", "--upgrade"]
    for platform, packages in wanted().items():
        done = subprocess.run(
            [*pip, "--target", str(folder / platform), *packages], stderr=subprocess.PIPE, text=True, check=False
        )
        if done.returncode:
            why = (done.stderr.strip().splitlines() or ["pip says nothing"])[-1]
            sys.exit(f"make test-aot needs {' '.join(packages)}, which cannot be installed: {why}")


if __name__ == "__main__":
    main()
