"""Ranking quality of the trained models of configs/accuracy, served from cached blocks, against full recompute.

    python benchmarks/accuracy.py MODELS --beauty DATA --json accuracy.json --plots FOLDER

MODELS has a folder for each config of configs/accuracy, as `rcjax train` left it (docs/accuracy.md says how to make
them). Two test beds: the embedded shop, whose best possible ranking is known, and Amazon Beauty. For each, a model that
is trained and served in the `parallel` layout, and one trained and served with full causal attention, on the same
requests; the causal one is also served from cached blocks, under selection policies; `semantic` arms rank users
whose history is not in cache. All in one run, float32. Without a causal model in MODELS nothing is claimed of it.
"""

import argparse
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from claims import Claim, write_report
from pydantic import ByteSize
from rich.console import Console

from rcjax.catalog.holdout import NextItem
from rcjax.config import ArmSettings, CacheSettings, CatalogueSettings, Limits, Settings, ShapeSettings
from rcjax.evaluation.bootstrap import interval, resampled_means
from rcjax.evaluation.evaluation import EvalOptions, Evaluation, evaluate
from rcjax.evaluation.gate import METRIC
from rcjax.evaluation.plot import write_plot
from rcjax.evaluation.ranking import METRICS, Rank, metric_values
from rcjax.evaluation.report import report
from rcjax.evaluation.summary import ArmSummary, Estimate
from rcjax.prompt import History, Layout, Scoring
from rcjax.training.trainer import CURVE

CONFIGS = Path(__file__).parents[1] / "configs" / "accuracy"
TEMPLATES = {"embedded": "compact", "beauty": str(CONFIGS / "short-titles.yaml")}
PARALLEL, FULL_PARALLEL, FULL_CAUSAL = "parallel", "full/parallel/anchor", "full/sequential/anchor"
CLAIMED_POLICY = "query(r=0.15)"  # none tried is clearly better at this budget
RCLLM = "heavy_hitter(r_item=0.3)"  # the paper's policy at its budget
POLICIES = (
    "none",
    "boundary(first=2)",
    "boundary(first=3)",
    "offline(k=3)",
    "deviation(r=0.15)",
    "heavy_hitter(r_item=0.15)",
    RCLLM,
    CLAIMED_POLICY,
    "query(r=0.3)",
    "query(r=0.5)",
    "query(r=0.7)",
    "query(r=0.9)",
)
BEAUTY_POLICIES = ("none", RCLLM, CLAIMED_POLICY)  # a front of twelve would take an hour
MAX_SELECTED, MIN_TOP1_AGREEMENT, MAX_NDCG_DIFFERENCE = 0.15, 0.95, 0.005
MIN_SHARE_OF_BEST = 0.9
WORD_OVERLAP_NDCG = 0.425  # of the very next items of all users, n = 1,500; the items after them are harder
MIN_DIFFERENCE_TO_CAUSAL = -0.02  # about half the width of an NDCG@10 interval at n = 1,000
MAX_SCORE_DIFFERENCE = 1e-4


def settings(bed: str, catalogue: CatalogueSettings, model: Path, arms: Mapping[str, ArmSettings]) -> Settings:
    """Shapes for 20 short candidates, and a pool that holds all that is asked about."""
    rank = tuple((fresh, 160) for fresh in (32, 64, 96, 128, 192, 384, 768))
    return Settings(
        model=str(model),
        dtype="float32",
        template=TEMPLATES[bed],
        catalogue=catalogue,
        arms=dict(arms),
        default_arm=next(iter(arms)),
        limits=Limits(max_candidates=20, max_item_tokens=128),
        shapes=ShapeSettings(rank=rank, build=((64, 16), (512, 16))),
        cache=CacheSettings(pool_bytes=ByteSize(2**30)),
    )


def run_bed(
    console: Console, bed: str, catalogue: CatalogueSettings, models: Path, num_requests: int | None, seed: int
) -> tuple[dict[str, Evaluation], list[Claim]]:
    """The evaluations of the bed's models on the same requests, and the claims about it."""
    parallel = ArmSettings(layout=Layout.PARALLEL, scoring=Scoring.ANCHOR)
    arms = {
        "parallel": {
            PARALLEL: parallel,
            "semantic": parallel.model_copy(update={"history": History.SEMANTIC}),
            "semantic, deviation(r=0.3)": parallel.model_copy(
                update={"history": History.SEMANTIC, "selection": "deviation(r=0.3)"}
            ),
        },
        "causal": {
            policy: ArmSettings(scoring=Scoring.ANCHOR, selection=policy)
            for policy in (POLICIES if bed == "embedded" else BEAUTY_POLICIES)
        },
    }
    # Every later item of a Beauty user is asked for: one each of its 255 test users would be too few requests.
    options = EvalOptions(num_requests, task=NextItem(targets_per_user=100), seed=seed)
    found = {}
    for trained, of_model in arms.items():
        model = models / f"{bed}-{trained}" / "model"
        if trained == "causal" and not model.exists():
            console.print(f"{model} does not exist: nothing is measured of this bed's causal model")
            continue
        console.rule(f"{bed}: the {trained} model")
        found[trained] = evaluate(console, settings(bed, catalogue, model, of_model), options)
    for name, summary in ((n, a) for e in found.values() for n, a in e.summaries.items()):
        if summary.num_invalid:
            raise RuntimeError(f"{name} refused {summary.num_invalid} requests: give it shapes that hold them")
    claims = parallel_claims(bed, found["parallel"])
    if "causal" in found:
        if found["parallel"].dataset.asked.requests != found["causal"].dataset.asked.requests:
            raise RuntimeError("the two models were not asked the same")
        claims.append(Claim(f"{bed}/parallel_minus_causal_low", minus_causal(found).low, MIN_DIFFERENCE_TO_CAUSAL))
        claims += policy_claims(bed, found["causal"].summaries)
    return found, claims


def parallel_claims(bed: str, evaluation: Evaluation) -> list[Claim]:
    """What is claimed of the model that is trained under the mask it is served with."""
    exact, served = evaluation.summaries[FULL_PARALLEL], evaluation.summaries[PARALLEL]
    if exact.fidelity is not None or served.fidelity is None or served.differences is None:
        raise RuntimeError(f"{PARALLEL} must be compared with {FULL_PARALLEL}, and that with nothing")
    ndcg, chance = served.metrics[METRIC].value, evaluation.bounds["chance"][METRIC]
    if bed == "embedded":
        best = evaluation.bounds["best possible"][METRIC]
        quality = [Claim(f"{bed}/parallel_share_of_best", (ndcg - chance) / (best - chance), MIN_SHARE_OF_BEST)]
    else:
        over = difference(evaluation, served.ranks, evaluation.baselines["word overlap"].ranks)
        quality = [
            Claim(f"{bed}/parallel_ndcg_at_10", ndcg, WORD_OVERLAP_NDCG),
            Claim(f"{bed}/parallel_less_word_overlap_low", over.low, 0.0),
        ]
    return [
        *quality,
        Claim(
            f"{bed}/parallel_max_score_difference", served.fidelity.max_score_difference, MAX_SCORE_DIFFERENCE, False
        ),
        Claim(f"{bed}/parallel_ndcg_difference", abs(served.differences[METRIC].value), 0.0, False),
    ]


def minus_causal(found: Mapping[str, Evaluation]) -> Estimate:
    """NDCG@10 of the parallel model, served from cached blocks, less that of the causal one, recomputed in full."""
    parallel, causal = found["parallel"], found["causal"]
    return difference(parallel, parallel.summaries[PARALLEL].ranks, causal.summaries[FULL_CAUSAL].ranks)


def difference(evaluation: Evaluation, ranks: Sequence[Rank], others: Sequence[Rank]) -> Estimate:
    """Of NDCG@10 on the requests of `evaluation`, paired, resampled by user."""
    column = METRICS.index(METRIC)
    paired = (metric_values(ranks)[:, column] - metric_values(others)[:, column])[:, None]
    users = [request.user_id for request in evaluation.dataset.asked.requests]
    low, high = interval(resampled_means(paired, users, seed=evaluation.seed))
    return Estimate(float(paired.mean()), float(low[0]), float(high[0]))


def policy_claims(bed: str, arms: Mapping[str, ArmSummary]) -> list[Claim]:
    """What is claimed of a policy for a model that is served from cached blocks under another mask than its own."""
    default = arms[CLAIMED_POLICY]
    if default.fidelity is None or default.differences is None:
        raise RuntimeError(f"{CLAIMED_POLICY} has no reference")
    return [
        Claim(f"{bed}/causal_selected_share", default.tokens.selected, MAX_SELECTED, False),
        Claim(f"{bed}/causal_top1_agreement", default.fidelity.top1_agreement, MIN_TOP1_AGREEMENT),
        Claim(
            f"{bed}/causal_ndcg_interval_beyond_tolerance",
            default.differences[METRIC].excess(MAX_NDCG_DIFFERENCE),
            0.0,
            False,
        ),
    ]


def curves(models: Path, bed: str) -> dict[str, list[dict[str, float]]]:
    """The training curve of each of the bed's runs."""
    return {
        path.parent.name: [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
        for path in sorted(models.glob(f"{bed}-*/{CURVE}"))
    }


def plot(path: Path, found: Mapping[str, Evaluation]) -> None:
    asked = found["parallel"]
    lines = {name: values[METRIC] for name, values in asked.bounds.items()}
    lines |= {name: summary.metrics[METRIC].value for name, summary in asked.baselines.items()}
    title = f"n = {asked.num_requests:,}, seed {asked.seed}: {asked.dataset.origin}"
    write_plot(
        path, {name: arm for evaluation in found.values() for name, arm in evaluation.summaries.items()}, lines, title
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("models", type=Path, help="folder of the folders that `rcjax train` made")
    parser.add_argument("--beauty", type=Path, help="folder with items.jsonl.gz and interactions.jsonl.gz")
    parser.add_argument("--json", type=Path, help="write figures and claims here")
    parser.add_argument("--plots", type=Path, help="write embedded.png and beauty.png into this folder")
    parser.add_argument("--requests", type=int, default=1000, help="of the embedded shop")
    parser.add_argument("--beauty-requests", type=int, default=1000, help="of Beauty's test users")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    console = Console()
    beds: dict[str, CatalogueSettings] = {"embedded": CatalogueSettings()}
    if args.beauty:
        paths = {"items": args.beauty / "items.jsonl.gz", "events": args.beauty / "interactions.jsonl.gz"}
        beds["beauty"] = CatalogueSettings(format="jsonl", paths=paths)
    for folder in filter(None, (args.plots, args.json and args.json.parent)):
        folder.mkdir(parents=True, exist_ok=True)
    results: dict[str, Any] = {"benchmark": "accuracy", "seed": args.seed}
    claims: list[Claim] = []
    for bed, catalogue in beds.items():
        num_requests = args.requests if bed == "embedded" else args.beauty_requests
        found, of_bed = run_bed(console, bed, catalogue, args.models, num_requests, args.seed)
        claims += of_bed
        results[bed] = {name: report(evaluation) for name, evaluation in found.items()}
        results[bed]["curves"] = curves(args.models, bed)
        if "causal" in found:
            results[bed]["parallel_minus_causal"] = asdict(minus_causal(found))
        if args.json:
            write_report(args.json, results, claims)
        if args.plots:
            plot(args.plots / f"{bed}.png", found)
    for claim in claims:
        console.print(
            f"{claim.name}: {claim.value:.4f}, {'holds' if claim.holds else 'does not hold'} ({claim.target})"
        )


if __name__ == "__main__":
    main()
