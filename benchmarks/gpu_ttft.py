"""TTFT in the shape of Qwen3-8B on one device: `full`, `prefix` and `parallel`, 1 to 32 requests at once.

    python benchmarks/gpu_ttft.py --json gpu-ttft.json

Weights are random and in bfloat16, as time does not depend on what they are; prompts are those of benchmarks/ttft.py,
with all blocks in cache. A burst is sent at once, and arms take turns; it need not run as one pass, and those of `full`
and `prefix` run as passes of at most 8.
"""

import argparse
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import ttft
from claims import write_report
from pydantic import ByteSize
from rich.progress import track

from rcjax.config import CacheSettings, Settings, ShapeSettings, ShapeSize
from rcjax.model.config import ModelConfig
from rcjax.model.decoder import init_params
from rcjax.model.spec import Model, load_model
from rcjax.request import RecommendRequest, RecommendResult
from rcjax.serving.local import LocalEngine
from rcjax.serving.startup import start_engine

ARMS = ("full", "prefix", "parallel")
QWEN3_8B = ModelConfig(
    num_layers=36, d_model=4096, num_heads=32, num_kv_heads=8, head_dim=128, d_ff=12288, vocab_size=151936,
    rope_theta=1e6, norm_eps=1e-6, max_len=40960, qk_norm=True,
)  # fmt: skip
TINY = ModelConfig(
    num_layers=2, d_model=32, num_heads=4, num_kv_heads=2, head_dim=8, d_ff=32, vocab_size=49152,
    rope_theta=1e6, norm_eps=1e-6, max_len=40960, qk_norm=True,
)  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--attention", default="auto", help="the implementation that serves, as in the configuration")
    parser.add_argument("--tiny", action="store_true", help=argparse.SUPPRESS)  # a tiny model, for a CPU
    args = parser.parse_args()
    report = measure(args.attention, args.tiny)
    if args.json:
        write_report(args.json, report, [])


def measure(attention: str, tiny: bool) -> dict[str, Any]:
    """With `tiny`, of a tiny model in few shapes: that shows only that this code runs."""
    bursts, rounds = ((1, 2), 1) if tiny else ((1, 8, 32), 5)
    model = random_model(TINY if tiny else QWEN3_8B)
    with start_engine(settings(attention, tiny), model=model, progress=print) as engine:
        asks = hits(engine, max(bursts))
        cells = [(arm, burst) for burst in bursts for arm in ARMS]
        samples: dict[tuple[str, int], list[dict[str, Any]]] = {cell: [] for cell in cells}
        for number in track(range(rounds), "rounds"):
            for arm, burst in cells[number % len(cells) :] + cells[: number % len(cells)]:
                samples[arm, burst].append(send(engine, asks[arm][:burst]))
    rows = [{"arm": arm, "burst": burst} | summary(some) for (arm, burst), some in samples.items()]
    for row in rows:
        print(f"{row['arm']:9}x{row['burst']:3}: P50 {row['p50_ms']:8.1f} ms, {row['requests_per_s']:7.1f} requests/s")
    return {"benchmark": "gpu_ttft", "model": model.name, "attention": attention, "rows": rows}


def settings(attention: str, tiny: bool) -> Settings:
    """Baselines get shapes in steps of 256 tokens, so that few have to be compiled."""
    sizes = ((2048, 0), (1792, 48)) if tiny else ((1792, 0), (2048, 0), (1280, 48), (1536, 48), (1792, 48))
    batches, tiled_batches = ([1], [1, 2]) if tiny else ([1, 8], [1, 8, 32])
    rank = [
        *(ShapeSize(fresh_tokens=20, num_pages=48, batch=b, tiles=20, tile_pages=8) for b in tiled_batches),
        *(ShapeSize(fresh_tokens=fresh, num_pages=pages, batch=b) for fresh, pages in sizes for b in batches),
    ]
    return Settings(
        adapter=None,
        dtype="bfloat16",
        attention=attention,
        arms={arm: ttft.ARMS[arm] for arm in ARMS},
        default_arm="parallel",
        shapes=ShapeSettings(rank=tuple(rank), build=((512, 16),)),
        cache=CacheSettings(pool_bytes=ByteSize(2**23 if tiny else 16 * 2**30)),
    )


def random_model(config: ModelConfig) -> Model:
    """With the embedded model's tokenizer, whose ids are among the vocabulary's."""
    tokenizer = load_model(Settings().model).tokenizer
    params = init_params(config, jax.random.key(0), jnp.bfloat16)
    return Model(f"random, {config.num_layers} layers of {config.d_model}", config, params, tokenizer, "random")


def hits(engine: LocalEngine, num: int) -> dict[str, list[RecommendRequest]]:
    """Of each arm the same requests, all of which fit its shapes, with their blocks in cache."""
    found = ttft.fill(engine, num + 4, 0, arm="parallel")  # a request in fifty has too many pages for tiles
    asks = {arm: [RecommendRequest(one.candidates, one.user_id, arm=arm) for one in found] for arm in ARMS}
    good = [True] * len(found)
    for some in asks.values():
        answers = engine.recommend(some)  # builds what an arm has not in cache yet
        good = [ok and isinstance(answer, RecommendResult) for ok, answer in zip(good, answers, strict=True)]
    chosen = {arm: [ask for ask, ok in zip(some, good, strict=True) if ok][:num] for arm, some in asks.items()}
    if len(chosen["parallel"]) < num:
        raise RuntimeError(f"only {len(chosen['parallel'])} of {num} requests fit the shapes of all arms")
    return chosen


def send(engine: LocalEngine, asks: Sequence[RecommendRequest]) -> dict[str, Any]:
    start_s = time.perf_counter()
    answers = engine.recommend(asks)
    wall_s = time.perf_counter() - start_s
    for answer in answers:
        if isinstance(answer, Exception):
            raise answer
        if answer.tokens.built:
            raise RuntimeError(f"built {answer.tokens.built} tokens: not a full hit")
    results = [answer for answer in answers if isinstance(answer, RecommendResult)]
    return {
        "wall_ms": wall_s * 1e3,
        "ttft_ms": [one.times.ttft_ms for one in results],
        "extend_ms": [one.times.extend_ms for one in results],
        "fresh_tokens": [one.tokens.fresh for one in results],
    }


def summary(samples: list[dict[str, Any]]) -> dict[str, Any]:
    ttft_ms = np.concatenate([one["ttft_ms"] for one in samples])
    wall_ms = float(np.median([one["wall_ms"] for one in samples]))
    p50, p99 = (float(np.percentile(ttft_ms, q)) for q in (50, 99))
    rate = len(samples[0]["ttft_ms"]) / wall_ms * 1e3
    return {"p50_ms": p50, "p99_ms": p99, "wall_ms": wall_ms, "requests_per_s": rate, "samples": samples}


if __name__ == "__main__":
    main()
