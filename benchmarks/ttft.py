"""TTFT of full recompute, prefix caching and rcjax on the same prompts, in the same engine.

    python benchmarks/ttft.py --json ttft.json

Prompts of the embedded shop with 20 candidates and 1,500-2,000 tokens. Every arm runs every request, interleaved and in
turn first, after a warm-up, with all its blocks in cache ("full hits"). `prefix` is given the most a prefix can hold,
the user's history included; `instruction` is a user not seen before. Baselines get shapes in steps of 128 tokens, so
that padding costs them at most 8%.
"""

import argparse
import itertools
import resource
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from claims import Claim, show_claims, write_report
from pydantic import ByteSize
from rich.console import Console
from rich.progress import track
from rich.table import Table
from roofline import matmul_flops_per_s

from rcjax.catalog.embedded import EmbeddedWorld
from rcjax.catalog.types import Request
from rcjax.config import ArmSettings, CacheSettings, Settings, ShapeSettings, ShapeSize
from rcjax.errors import InvalidRequestError
from rcjax.model.config import ModelConfig
from rcjax.model.spec import Model, load_model
from rcjax.prompt import Layout, Reuse, Scoring
from rcjax.request import RecommendRequest, RecommendResult
from rcjax.serving.local import LocalEngine
from rcjax.serving.startup import start_engine

ARMS = {
    "full": ArmSettings(reuse=Reuse.NONE),
    "instruction": ArmSettings(reuse=Reuse.INSTRUCTION),
    "prefix": ArmSettings(reuse=Reuse.PREFIX),
    "rcjax": ArmSettings(selection="boundary(first=4)"),
    "parallel": ArmSettings(layout=Layout.PARALLEL, scoring=Scoring.ANCHOR),
}
STAGES = ("queue_ms", "plan_ms", "build_ms", "extend_ms", "readout_ms")
PROMPT_TOKENS = (1500, 2000)
POOL_BYTES = ByteSize(2 * 2**30)  # holds all items and users: no evictions while measuring


def settings() -> Settings:
    full = tuple((fresh, 0) for fresh in range(1536, 2049, 128))
    instruction = tuple((fresh, 16) for fresh in range(1280, 1921, 128))
    prefix = tuple((fresh, 48) for fresh in range(1024, 1793, 128))
    tiled = ShapeSize(fresh_tokens=20, num_pages=48, tiles=20, tile_pages=8)
    rank = (tiled, (64, 160), (160, 160), *full, *instruction, *prefix)
    shapes = ShapeSettings(rank=rank, build=((512, 16),))
    return Settings(adapter=None, dtype="float32", arms=ARMS, shapes=shapes, cache=CacheSettings(pool_bytes=POOL_BYTES))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=Path, help="write samples and claims here")
    parser.add_argument("--requests", type=int, default=50)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    console = Console()
    with console.status("starting") as status:
        model = load_model(settings().model)
        engine = start_engine(settings(), model=model, progress=status.update)
    with engine:
        requests = fill(engine, args.requests, args.seed)
        matmul = matmul_flops_per_s(jnp.float32) / 1e9
        samples = run(engine, requests)
        report, claims = summarise(engine, model, samples, matmul)
    show(console, report)
    show_claims(claims)
    if args.json:
        write_report(args.json, report, claims)


def fill(engine: LocalEngine, num_requests: int, seed: int, arm: str = "rcjax") -> list[Request]:
    """Requests whose prompts have the paper's size, with all their blocks resident."""
    world = EmbeddedWorld(seed)
    items = world.items
    engine.put_items(items.values())
    found: list[Request] = []
    for request in world.requests(10 * num_requests, split="test"):
        user = world.user(request.user_id)
        ask = RecommendRequest(request.candidates, history=user.events, arm=arm)
        try:
            num_tokens = engine.prompt(ask).num_tokens
        except InvalidRequestError:
            continue  # longer than any shape holds
        if PROMPT_TOKENS[0] <= num_tokens <= PROMPT_TOKENS[1]:
            engine.put_user(user)
            found.append(request)
        if len(found) == num_requests:
            return found
    raise RuntimeError(f"only {len(found)} of {num_requests} prompts have {PROMPT_TOKENS} tokens")


def run(engine: LocalEngine, requests: list[Request]) -> dict[str, list[RecommendResult]]:
    samples: dict[str, list[RecommendResult]] = {arm: [] for arm in ARMS}
    orders = itertools.cycle(np.roll(list(ARMS), shift).tolist() for shift in range(len(ARMS)))
    warm_up = requests[:1]
    for index, request in enumerate(track([*warm_up, *requests], "requests")):
        for arm in next(orders):
            ask = RecommendRequest(request.candidates, request.user_id, arm=arm)
            (result,) = engine.recommend([ask])
            if isinstance(result, Exception):
                raise result
            if result.tokens.built:
                raise RuntimeError(f"{arm} built {result.tokens.built} tokens: not a full hit")
            if index >= len(warm_up):
                samples[arm].append(result)
    return samples


def summarise(
    engine: LocalEngine, model: Model, samples: dict[str, list[RecommendResult]], matmul: float
) -> tuple[dict[str, Any], list[Claim]]:
    arms = {arm: of_arm(results) for arm, results in samples.items()}
    flops = float(np.median([full_flops(model.config, result.tokens.prompt_len) for result in samples["full"]]))
    full_rate = flops / arms["full"]["stages_ms"]["extend_ms"] / 1e6
    weights = sum(leaf.nbytes for leaf in jax.tree.leaves(model.params))
    pool = engine.stats().pool_bytes
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    report = {
        "benchmark": "ttft",
        "model": engine.info().model,
        "dtype": engine.info().dtype,
        "matmul_gflops": matmul,
        "full_gflops": full_rate,
        "arms": arms,
        "memory": {
            "weights_bytes": weights,
            "pool_bytes": pool,
            "peak_rss_bytes": peak,
            "peak_rss_over_weights_and_pool": peak / (weights + pool),
        },
    }
    return report, claims_of(arms, full_rate / matmul)


def of_arm(results: list[RecommendResult]) -> dict[str, Any]:
    ttft = np.array([result.times.ttft_ms for result in results])
    outside = np.array([result.times.ttft_ms - result.times.extend_ms for result in results])
    tokens = [result.tokens for result in results]
    return {
        "n": len(results),
        "ttft_ms": dict(zip(("p50", "p90", "p99"), np.percentile(ttft, (50, 90, 99)).tolist(), strict=True)),
        "outside_ms": {"p50": float(np.median(outside)), "max": float(outside.max())},
        "tokens": {
            kind: float(np.mean([getattr(count, kind) for count in tokens]))
            for kind in ("cached", "selected", "fresh", "prompt_len")
        },
        "stages_ms": {
            stage: float(np.median([getattr(result.times, stage) for result in results])) for stage in STAGES
        },
        "samples_ttft_ms": ttft.tolist(),
    }


def claims_of(arms: dict[str, dict[str, Any]], full_share: float) -> list[Claim]:
    p50 = {arm: values["ttft_ms"]["p50"] for arm, values in arms.items()}
    outside = [arms[arm]["outside_ms"] for arm in ("rcjax", "parallel")]
    return [
        Claim("full recompute's share of the float32 matmul rate", full_share, 0.6),
        Claim("rcjax (sequential, boundary(first=4)): P50 TTFT, times below prefix", p50["prefix"] / p50["rcjax"], 5),
        Claim("parallel (none, anchor): P50 TTFT, times below prefix", p50["prefix"] / p50["parallel"], 10),
        Claim("worst time outside the forward pass, ms", max(one["max"] for one in outside), 10, at_least=False),
        Claim("P50 of the time outside the forward pass, ms", max(one["p50"] for one in outside), 2, at_least=False),
    ]


def full_flops(config: ModelConfig, num_tokens: int) -> float:
    """Floating-point operations that a causal pass needs: what causality masks and softmax costs do not count."""
    c = config
    projections = c.d_model * c.head_dim * (2 * c.num_heads + 2 * c.num_kv_heads) + 3 * c.d_model * c.d_ff
    attention = c.num_heads * c.head_dim * num_tokens  # q k and p v, over half of the square
    return 2.0 * c.num_layers * num_tokens * (projections + attention)


def show(console: Console, report: dict[str, Any]) -> None:
    table = Table(title=f"TTFT, {report['model']} {report['dtype']}, n={report['arms']['full']['n']}")
    for column in ("arm", "P50 ms", "P90 ms", "P99 ms", "cached", "selected", "fresh", "outside pass ms"):
        table.add_column(column, justify="left" if column == "arm" else "right")
    for arm, values in report["arms"].items():
        tokens = [f"{values['tokens'][kind]:.0f}" for kind in ("cached", "selected", "fresh")]
        times = [f"{value:.0f}" for value in values["ttft_ms"].values()]
        table.add_row(arm, *times, *tokens, f"{values['outside_ms']['p50']:.1f}")
    console.print(table)
    memory = report["memory"]
    console.print(
        f"full recompute {report['full_gflops']:.0f} of {report['matmul_gflops']:.0f} GFLOP/s; peak RSS "
        f"{memory['peak_rss_bytes'] / 2**30:.2f} GiB for {memory['weights_bytes'] / 2**30:.2f} GiB of weights and "
        f"{memory['pool_bytes'] / 2**30:.2f} GiB of pages"
    )


if __name__ == "__main__":
    main()
