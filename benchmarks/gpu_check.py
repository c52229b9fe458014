"""What a device owner runs, in under 8 minutes: the GPU tests, the kernel's times, and TTFT in the shape of Qwen3-8B.

    python benchmarks/gpu_check.py --json gpu-check.json

Each part is a process of its own, one after another, and gets its share of the time and what those before it left; the
JSON says of each how it ended. There is time for the kernel's bfloat16 alone, with KV of the same type and in 8 bits.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from claims import Claim, show_claims, write_report

SCRIPTS = Path(__file__).parent
ROOT = SCRIPTS.parent


@dataclass(frozen=True, slots=True)
class Part:
    """A command of Python's, its report's file left open; `share_s` of the 470 s."""

    share_s: float
    command: Sequence[str]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=Path, required=True)
    parser.add_argument("--attention", default="pallas_gpu", help="the implementation that serves in TTFT's part")
    args = parser.parse_args()
    # Without these the tests would choose the CPU and skip themselves, and be compiled without optimisation; and two
    # processes of theirs would not share a GPU.
    environ = dict(os.environ) | {"JAX_PLATFORMS": "cuda", "RCJAX_TEST_OPTIMIZED": "1"}
    check_gpu(environ)
    found = run_parts(parts_of(args.attention), environ)
    claims = claims_of(found)
    show_claims(claims)
    write_report(args.json, {"benchmark": "gpu_check", "parts": found}, claims)
    if any(part["returncode"] for part in found.values()):
        raise SystemExit(1)


def check_gpu(environ: Mapping[str, str]) -> None:
    """Exits where JAX has no GPU. In a process of its own: this one must not take the memory that the parts need."""
    done = subprocess.run([sys.executable, "-c", "import jax; jax.devices()"], env=environ, capture_output=True)
    if done.returncode:
        raise SystemExit("JAX finds no NVIDIA GPU here: that takes one, its driver, and jax[cuda13] (the extra `gpu`)")


def parts_of(attention: str) -> dict[str, Part]:
    kernels = [str(SCRIPTS / "kernels.py"), "--rounds", "5"]
    tests = ["-m", "pytest", "-m", "gpu", "-n", "4", "-p", "no:cacheprovider", "tests/kernels"]
    return {
        "tests": Part(140, tests),
        "kernels": Part(90, kernels),
        "ttft": Part(200, [str(SCRIPTS / "gpu_ttft.py"), "--attention", attention]),
        "kernels_int8": Part(40, [*kernels, "--kv-dtypes", "int8", "--shapes", "bar", "bar/group", "parallel/8"]),
    }


def run_parts(parts: Mapping[str, Part], environ: Mapping[str, str]) -> dict[str, dict[str, Any]]:
    """How each part ended, and what it reports."""
    start_s = time.monotonic()
    until_s = 0.0
    found = {}
    with tempfile.TemporaryDirectory() as folder:
        for name, part in parts.items():
            print(f"== {name}", flush=True)
            until_s += part.share_s
            file = Path(folder, name + ".json")
            of_report = [] if "pytest" in part.command else ["--json", str(file)]
            limit_s = start_s + until_s - time.monotonic()
            found[name] = run([*part.command, *of_report], environ, limit_s)
            found[name]["report"] = json.loads(file.read_text()) if file.exists() else {}
    return found


def run(command: Sequence[str], environ: Mapping[str, str], limit_s: float) -> dict[str, Any]:
    """Runs a part, with its output shown; -1 where it was stopped for the time."""
    start_s = time.monotonic()
    share = {"XLA_PYTHON_CLIENT_PREALLOCATE": "false"} if "pytest" in command else {}
    try:
        done = subprocess.run([sys.executable, *command], cwd=ROOT, env={**environ, **share}, timeout=max(limit_s, 1))
        code = done.returncode
    except subprocess.TimeoutExpired:
        code = -1
        print(f"stopped after {limit_s:.0f} s: its share of the time, and what was left, are over", flush=True)
    return {"returncode": code, "wall_s": time.monotonic() - start_s}


def claims_of(found: Mapping[str, Mapping[str, Any]]) -> list[Claim]:
    """That every part ended well, and what the parts claim."""
    claims = [Claim(f"{name}: ended well", float(part["returncode"] == 0), 1) for name, part in found.items()]
    for part in found.values():
        claims += [
            Claim(one["name"], one["value"], one["target"], one["at_least"]) for one in part["report"].get("claims", [])
        ]
    return claims


if __name__ == "__main__":
    main()
