"""What every benchmark writes: what ran where, its raw samples, and whether its claims hold."""

import importlib.metadata
import json
import os
import platform
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import jax


@dataclass(frozen=True)
class Claim:
    """One bar: `value` is held against `target`, from above or from below."""

    name: str
    value: float
    target: float
    at_least: bool = True

    @property
    def holds(self) -> bool:
        return self.value >= self.target if self.at_least else self.value <= self.target


def environment() -> dict[str, Any]:
    """The machine and the versions that a figure depends on."""
    packages = ("rcjax", "jax", "jaxlib", "flax", "numpy")
    device = jax.devices()[0]
    return {
        "device": f"{device.platform}:{device.device_kind}",
        "cpu_count": os.cpu_count(),
        "machine": platform.machine(),
        "python": platform.python_version(),
        "versions": {name: importlib.metadata.version(name) for name in packages},
        "load_average": os.getloadavg(),
    }


def write_report(path: Path, report: dict[str, Any], claims: list[Claim]) -> None:
    rows = [asdict(claim) | {"holds": claim.holds} for claim in claims]
    path.write_text(json.dumps({"environment": environment(), **report, "claims": rows}, indent=1) + "\n")


def show_claims(claims: list[Claim]) -> None:
    for claim in claims:
        sign = ">=" if claim.at_least else "<="
        print(f"{'holds' if claim.holds else 'FAILS'}: {claim.name}: {claim.value:,.2f} {sign} {claim.target:,}")
