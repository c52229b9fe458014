"""What fewer bits cost in ranking quality: the same requests in an engine of float32 and in others.

    python benchmarks/precision.py models/embedded-parallel/model --json precision.json   # --requests N (1000)

Others are one of bfloat16, weights and KV, and those of float32 weights whose cached KV is int8 or fp8. The model is
one that was trained for the embedded shop (docs/accuracy.md says how), served in the `parallel` layout from cached
blocks. All engines get the requests of the same test users.
"""

import argparse
from dataclasses import asdict, dataclass
from pathlib import Path

import accuracy
import numpy as np
from claims import Claim, show_claims, write_report
from pydantic import ByteSize
from rich.console import Console
from rich.progress import Progress

from rcjax.catalog.holdout import NextItem
from rcjax.catalog.types import Catalogue
from rcjax.config import ArmSettings, CatalogueSettings, Settings
from rcjax.evaluation.dataset import Dataset, eval_dataset
from rcjax.evaluation.gate import METRIC
from rcjax.evaluation.prompt_texts import PromptTexts
from rcjax.evaluation.runner import ArmRun, run_arms
from rcjax.evaluation.summary import ArmSummary, summarise
from rcjax.model.spec import load_model
from rcjax.prompt import BlockKind, Layout, Scoring
from rcjax.serving.local import LocalEngine
from rcjax.serving.startup import start_engine

ARM, REFERENCE = "parallel", "float32"


@dataclass(frozen=True, slots=True)
class Precision:
    """Dtypes of weights and cached KV, and what they may cost."""

    dtype: str = "float32"
    kv_dtype: str = "auto"
    min_top1_agreement: float | None = None
    max_kl_nats: float | None = None
    max_ndcg_difference: float | None = None  # of the mean; `in_interval`: of both ends of its 95% interval
    in_interval: bool = False


PRECISIONS = {
    REFERENCE: Precision(),
    "bfloat16": Precision("bfloat16", min_top1_agreement=0.98, max_ndcg_difference=0.003),
    "int8 KV": Precision(kv_dtype="int8", max_kl_nats=1e-3, max_ndcg_difference=0.002, in_interval=True),
    "fp8 KV": Precision(kv_dtype="fp8", max_kl_nats=1e-3, max_ndcg_difference=0.002, in_interval=True),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path)
    parser.add_argument("--requests", type=int, default=1000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", type=Path, help="write figures and claims here")
    args = parser.parse_args()
    console = Console()
    dataset = requests(console, served(args.model, PRECISIONS[REFERENCE]), args.requests, args.seed)
    runs, item_bytes = {}, {}
    for name, precision in PRECISIONS.items():
        runs[name], item_bytes[name] = ranked(console, name, served(args.model, precision), dataset.asked)
    references = {name: None if name == REFERENCE else REFERENCE for name in PRECISIONS}
    summaries = summarise(runs, references, dataset.asked.requests, seed=args.seed)
    for name, summary in summaries.items():
        console.print(line(name, summary, item_bytes[name]), markup=False, highlight=False)
    found = [claim for name, precision in PRECISIONS.items() for claim in claims(name, precision, summaries[name])]
    show_claims(found)
    if args.json:
        report = {
            "benchmark": "precision",
            "model": str(args.model),
            "n": len(dataset.asked.requests),
            "seed": args.seed,
            "arms": {name: of_arm(summary) | {"item_bytes": item_bytes[name]} for name, summary in summaries.items()},
        }
        write_report(args.json, report, found)


def served(model: Path, precision: Precision) -> Settings:
    arm = ArmSettings(layout=Layout.PARALLEL, scoring=Scoring.ANCHOR)
    wanted = accuracy.settings("embedded", CatalogueSettings(), model, {ARM: arm})
    cache = wanted.cache
    if precision.kv_dtype != "auto":
        # A CPU converts the whole pool in each pass of fp8: no more pages than these requests need.
        pool_bytes = ByteSize(cache.pool_bytes // 16)
        cache = cache.model_copy(update={"kv_dtype": precision.kv_dtype, "pool_bytes": pool_bytes})
    return wanted.model_copy(update={"dtype": precision.dtype, "cache": cache})


def requests(console: Console, settings: Settings, number: int, seed: int) -> Dataset:
    """Those within the limits, at most one of each test user."""
    texts = PromptTexts(settings, load_model(settings.model), settings.arms)
    found = eval_dataset(
        settings, NextItem(), num_requests=number, split="test", seed=seed, is_servable=texts.is_servable,
        tell=console.print,
    )  # fmt: skip
    return texts.fitting(found)[0]


def ranked(console: Console, name: str, settings: Settings, asked: Catalogue) -> tuple[ArmRun, float]:
    """What the engine answered, and the pool's mean bytes of an item."""
    with start_engine(settings) as engine, Progress(console=console) as bar:
        task = bar.add_task(name, total=len(asked.requests))
        run = run_arms(engine, asked, [ARM], advance=lambda: bar.advance(task))[ARM]
        item_bytes = pool_bytes_of_items(engine)
    if run.errors:
        raise RuntimeError(f"{name} refused {len(run.errors)} requests: {run.errors[0]}")
    return run, item_bytes


def pool_bytes_of_items(engine: LocalEngine) -> float:
    (num_bytes,) = engine.call_workers(
        lambda worker: [
            len(block.pages) * worker.cache.executor.format.page_bytes
            for block in worker.cache.directory.ready_blocks()
            if block.kind == BlockKind.ITEM
        ]
    )
    return float(np.mean(num_bytes))


def line(name: str, summary: ArmSummary, item_bytes: float) -> str:
    ndcg = summary.metrics[METRIC]
    text = f"{name}: {METRIC} {ndcg.value:.4f} [{ndcg.low:.4f}, {ndcg.high:.4f}], {item_bytes:,.0f} bytes an item"
    if summary.fidelity is not None and summary.differences is not None:
        less, fidelity = summary.differences[METRIC], summary.fidelity
        text += f", less {REFERENCE}'s {less.value:+.4f} [{less.low:+.4f}, {less.high:+.4f}]"
        text += f", same top 1 {fidelity.top1_agreement:.3f}, KL {fidelity.kl_nats:.1e}, tau {fidelity.kendall_tau:.3f}"
    return text


def claims(name: str, precision: Precision, summary: ArmSummary) -> list[Claim]:
    if summary.fidelity is None or summary.differences is None:
        return []
    found, difference = [], summary.differences[METRIC]
    if (least := precision.min_top1_agreement) is not None:
        found.append(Claim(f"{name}: top-1 agreement with {REFERENCE}", summary.fidelity.top1_agreement, least))
    if (most := precision.max_kl_nats) is not None:
        found.append(Claim(f"{name}: KL from {REFERENCE}, nats", summary.fidelity.kl_nats, most, at_least=False))
    if (most := precision.max_ndcg_difference) is not None:
        value = difference.excess(0) if precision.in_interval else abs(difference.value)
        what = ", either end of its 95% interval" if precision.in_interval else ""
        found.append(Claim(f"{name}: |{METRIC} less {REFERENCE}'s|{what}", value, most, at_least=False))
    return found


def of_arm(summary: ArmSummary) -> dict[str, object]:
    kept = ("metrics", "differences", "fidelity", "tokens")
    return {name: value for name, value in asdict(summary).items() if name in kept}


if __name__ == "__main__":
    main()
