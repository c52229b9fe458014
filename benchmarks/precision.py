"""What bfloat16 costs in ranking quality: the same requests in an engine of float32 and in one of bfloat16.

    python benchmarks/precision.py models/embedded-parallel/model --json precision.json   # --requests N (1000)

The model is one that was trained for the embedded shop (docs/accuracy.md says how), served in the `parallel` layout
from cached blocks. Both engines get the requests of the same test users.
"""

import argparse
from dataclasses import asdict
from pathlib import Path

import accuracy
from claims import Claim, show_claims, write_report
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
from rcjax.prompt import Layout, Scoring
from rcjax.serving.startup import start_engine

ARM, DTYPE, REFERENCE = "parallel", "bfloat16", "float32"
MIN_TOP1_AGREEMENT, MAX_NDCG_DIFFERENCE = 0.98, 0.003


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path)
    parser.add_argument("--requests", type=int, default=1000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", type=Path, help="write figures and claims here")
    args = parser.parse_args()
    console = Console()
    reference = served(args.model, REFERENCE)
    dataset = requests(console, reference, args.requests, args.seed)
    runs = {
        REFERENCE: ranked(console, reference, dataset.asked),
        DTYPE: ranked(console, served(args.model, DTYPE), dataset.asked),
    }
    references = {REFERENCE: None, DTYPE: REFERENCE}
    summaries = summarise(runs, references, dataset.asked.requests, seed=args.seed)
    found = claims(summaries)
    for name, summary in summaries.items():
        ndcg = summary.metrics[METRIC]
        console.print(f"{name}: {METRIC} {ndcg.value:.4f} [{ndcg.low:.4f}, {ndcg.high:.4f}]", markup=False)
    show_claims(found)
    if args.json:
        report = {
            "benchmark": "precision",
            "model": str(args.model),
            "n": len(dataset.asked.requests),
            "seed": args.seed,
            "arms": {name: of_arm(summary) for name, summary in summaries.items()},
        }
        write_report(args.json, report, found)


def served(model: Path, dtype: str) -> Settings:
    arm = ArmSettings(layout=Layout.PARALLEL, scoring=Scoring.ANCHOR)
    return accuracy.settings("embedded", CatalogueSettings(), model, {ARM: arm}).model_copy(update={"dtype": dtype})


def requests(console: Console, settings: Settings, number: int, seed: int) -> Dataset:
    """Those within the limits, at most one of each test user."""
    texts = PromptTexts(settings, load_model(settings.model), settings.arms)
    found = eval_dataset(
        settings, NextItem(), num_requests=number, split="test", seed=seed, is_servable=texts.is_servable,
        tell=console.print,
    )  # fmt: skip
    return texts.fitting(found)[0]


def ranked(console: Console, settings: Settings, asked: Catalogue) -> ArmRun:
    with start_engine(settings) as engine, Progress(console=console) as bar:
        task = bar.add_task(settings.dtype, total=len(asked.requests))
        run = run_arms(engine, asked, [ARM], advance=lambda: bar.advance(task))[ARM]
    if run.errors:
        raise RuntimeError(f"{settings.dtype} refused {len(run.errors)} requests: {run.errors[0]}")
    return run


def claims(summaries: dict[str, ArmSummary]) -> list[Claim]:
    summary = summaries[DTYPE]
    if summary.fidelity is None or summary.differences is None:
        raise RuntimeError(f"{DTYPE} was compared with nothing")
    difference = abs(summary.differences[METRIC].value)
    return [
        Claim(f"{DTYPE}: top-1 agreement with {REFERENCE}", summary.fidelity.top1_agreement, MIN_TOP1_AGREEMENT),
        Claim(f"{DTYPE}: |{METRIC} less {REFERENCE}'s|", difference, MAX_NDCG_DIFFERENCE, at_least=False),
    ]


def of_arm(summary: ArmSummary) -> dict[str, object]:
    kept = ("metrics", "differences", "fidelity", "tokens")
    return {name: value for name, value in asdict(summary).items() if name in kept}


if __name__ == "__main__":
    main()
