"""Students that a causal checkpoint taught to be served from cached blocks, against that checkpoint.

    python benchmarks/distil.py MODELS RUNS --beauty DATA --json distil.json --plots FOLDER

MODELS has the teachers, `embedded-causal` and `beauty-causal` of configs/accuracy; RUNS has a folder for each config of
configs/distil, trained from them by `rcjax train` (docs/training.md says how). All models of a bed are asked the same
requests, of users that no student was taught on: the teacher in full recompute, which is the reference, and from cached
blocks as it is; each student from cached blocks. Intervals resample users, for all models together. A bed without
folders is left out, and nothing is claimed of it.
"""

import argparse
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from accuracy import TEMPLATES, settings
from claims import Claim, write_report
from rich.console import Console

from rcjax.catalog.holdout import NextItem
from rcjax.config import ArmSettings, CatalogueSettings, Settings
from rcjax.evaluation.arms import References
from rcjax.evaluation.asking import ask
from rcjax.evaluation.bootstrap import interval, resampled_means
from rcjax.evaluation.dataset import Dataset, eval_dataset
from rcjax.evaluation.plot import write_plot
from rcjax.evaluation.prompt_texts import PromptTexts
from rcjax.evaluation.ranking import METRICS, metric_values
from rcjax.evaluation.runner import ArmRun
from rcjax.evaluation.summary import ArmSummary, Estimate, summarise
from rcjax.evaluation.tables import difference_table, fidelity_table, quality_table
from rcjax.evaluation.teacher import TEACHER, UNDISTILLED
from rcjax.prompt import Layout, Reuse, Scoring
from rcjax.serving.startup import model_of
from rcjax.training.distillation import SCORES_FOLDER
from rcjax.training.teacher_scores import scoring_s
from rcjax.training.trainer import CURVE

NDCG, HIT = "ndcg_at_10", "hit_at_10"
BEFORE = f"{UNDISTILLED} none"
PARALLEL = {"parallel": ArmSettings(layout=Layout.PARALLEL, scoring=Scoring.ANCHOR)}
POLICIES = ("none", "boundary(first=2)", "query(r=0.15)")
SEQUENTIAL = {policy: ArmSettings(scoring=Scoring.ANCHOR, selection=policy) for policy in POLICIES}
ARMS_OF_RUN = {"parallel": PARALLEL, "tenth": PARALLEL, "sequential": SEQUENTIAL}
MAX_NDCG_DIFFERENCE, MIN_LOW, MIN_TOP1_AGREEMENT = 0.005, -0.02, 0.9
MIN_GIVEN_BACK, MIN_SHARE_OF_TENTH, MAX_TRAIN_MINUTES = 0.85, 0.8, 90


@dataclass(frozen=True)
class Bed:
    """What was found on one test bed: each arm's figures, and NDCG@10 and HR@10 as resampled together."""

    dataset: Dataset
    summaries: dict[str, ArmSummary]
    means: dict[str, dict[str, float]]
    resampled: dict[str, dict[str, np.ndarray]]

    def given_back(self, arm: str, metric: str) -> Estimate:
        """Of what the teacher loses from cached blocks, the share that a student does not lose."""
        return self._ratio(metric, arm, TEACHER)

    def share_of_gain(self, arm: str, other: str) -> Estimate:
        """An arm's gain over the undistilled teacher, by another's."""
        return self._ratio(NDCG, arm, other)

    def _ratio(self, metric: str, arm: str, whole: str) -> Estimate:
        def ratio(values: Mapping[str, Any]) -> Any:
            return (values[arm] - values[BEFORE]) / (values[whole] - values[BEFORE])

        low, high = interval(ratio(self.resampled[metric])[:, None])
        return Estimate(float(ratio(self.means[metric])), float(low[0]), float(high[0]))


def run_bed(
    console: Console, bed: str, catalogue: CatalogueSettings, models: Path, runs: Path, num_requests: int, seed: int
) -> Bed:
    """Asks the bed's teacher and students; models are loaded one after another."""
    causal = {policy: ArmSettings(scoring=Scoring.ANCHOR, selection=policy) for policy in POLICIES}
    teacher_arms = {
        TEACHER: ArmSettings(scoring=Scoring.ANCHOR, reuse=Reuse.NONE),
        **{f"{UNDISTILLED} {policy}": arm for policy, arm in causal.items()},
    }
    asked: dict[str, Settings] = {"teacher": settings(bed, catalogue, models / f"{bed}-causal" / "model", teacher_arms)}
    for run, arms in ARMS_OF_RUN.items():
        folder = runs / f"{bed}-{run}" / "model"
        if folder.exists():
            named = {run if len(arms) == 1 else f"{run} {name}": arm for name, arm in arms.items()}
            asked[run] = settings(bed, catalogue, folder, named)
    # Every later item of a Beauty user is asked for: one each of its 255 test users would be too few requests.
    task = NextItem(targets_per_user=100)
    dataset: Dataset | None = None
    gave: dict[str, ArmRun] = {}
    for name, own in asked.items():
        console.rule(f"{bed}: {name}")
        model = model_of(own)
        texts = PromptTexts(own, model, own.arms)
        if dataset is None:
            dataset = eval_dataset(own, task, num_requests=num_requests, seed=seed, is_servable=texts.is_servable)
        fitting, left_out, prompts = texts.fitting(dataset)
        if left_out:
            raise RuntimeError(f"{len(left_out)} requests do not fit {name}: {left_out[0]}")
        orders = 1 if name == "teacher" else 0
        gave |= ask(console, own, fitting, prompts, model, orders, seed).runs
        del model, texts  # before the next is loaded
    if dataset is None:
        raise RuntimeError("nobody was asked")
    for arm, run_of_arm in gave.items():
        if run_of_arm.errors:
            raise RuntimeError(f"{arm} refused {len(run_of_arm.errors)} requests: {run_of_arm.errors[0]}")
    references: References = {arm: None if arm == TEACHER else TEACHER for arm in gave}
    summaries = summarise(gave, references, dataset.asked.requests, seed=seed)
    return _bed(dataset, summaries, seed)


def _bed(dataset: Dataset, summaries: dict[str, ArmSummary], seed: int) -> Bed:
    users = [request.user_id for request in dataset.asked.requests]
    means: dict[str, dict[str, float]] = {}
    resampled: dict[str, dict[str, np.ndarray]] = {}
    for metric in (NDCG, HIT):
        column = METRICS.index(metric)
        values = np.stack([metric_values(arm.ranks)[:, column] for arm in summaries.values()], axis=1)
        drawn = resampled_means(values, users, seed=seed)
        means[metric] = dict(zip(summaries, values.mean(axis=0).tolist(), strict=True))
        resampled[metric] = {arm: drawn[:, n] for n, arm in enumerate(summaries)}
    return Bed(dataset, summaries, means, resampled)


def minutes(run: Path) -> dict[str, float]:
    """What a run took: the teacher's scoring, with compilation, and the student's training, without validation."""
    curve = [json.loads(line) for line in (run / CURVE).read_text(encoding="utf-8").splitlines()]
    return {"teacher": scoring_s(run / SCORES_FOLDER) / 60, "student": curve[-1]["train_s"] / 60}


def claims_of(bed: str, found: Bed, runs: Path) -> list[Claim]:
    """The bars that were set for the bed, of the students that are there."""
    taken = sum(sum(minutes(run).values()) for run in runs.glob(f"{bed}-*"))
    claims = [Claim(f"{bed}/training_minutes", taken, MAX_TRAIN_MINUTES, False)]
    arms = found.summaries
    for student in ("parallel", "sequential none"):
        if student in arms:
            claims += _embedded_claims(arms, student) if bed == "embedded" else _beauty_claims(found, student)
    if "parallel" in arms and "tenth" in arms:
        share = found.share_of_gain("tenth", "parallel")
        claims.append(Claim(f"{bed}/tenth_share_of_gain", share.value, MIN_SHARE_OF_TENTH))
    return claims


def _embedded_claims(arms: Mapping[str, ArmSummary], name: str) -> list[Claim]:
    student, bias = arms[name], arms[TEACHER].position_bias
    if student.differences is None or student.fidelity is None or bias is None:
        raise RuntimeError("the student must be compared with the teacher, and the teacher asked in another order")
    difference = student.differences[NDCG]
    bar = min(MIN_TOP1_AGREEMENT, bias.top1_agreement)
    told = f"embedded/{name.replace(' ', '_')}"
    return [
        Claim(f"{told}_ndcg_difference", abs(difference.value), MAX_NDCG_DIFFERENCE, False),
        Claim(f"{told}_ndcg_difference_low", difference.low, MIN_LOW),
        Claim(f"{told}_top1_agreement", student.fidelity.top1_agreement, bar),
    ]


def _beauty_claims(found: Bed, name: str) -> list[Claim]:
    told = f"beauty/{name.replace(' ', '_')}_given_back"
    return [Claim(f"{told}_{metric}", found.given_back(name, metric).value, MIN_GIVEN_BACK) for metric in (NDCG, HIT)]


def result(bed: str, found: Bed, runs: Path) -> dict[str, Any]:
    students = [arm for arm in found.summaries if arm != TEACHER and not arm.startswith(UNDISTILLED)]
    return {
        "origin": found.dataset.origin,
        "num_requests": len(found.dataset.asked.requests),
        "template": TEMPLATES[bed].rsplit("/")[-1],
        "arms": {
            name: {key: value for key, value in asdict(arm).items() if key != "ranks"}
            for name, arm in found.summaries.items()
        },
        "given_back": {arm: {m: asdict(found.given_back(arm, m)) for m in (NDCG, HIT)} for arm in students},
        "minutes": {path.name: minutes(path) for path in sorted(runs.glob(f"{bed}-*"))},
        "curves": {
            path.parent.name: [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
            for path in sorted(runs.glob(f"{bed}-*/{CURVE}"))
        },
    }


def show(console: Console, found: Bed) -> None:
    arms = found.summaries
    for table in (
        quality_table(arms, {}, {}, len(found.dataset.asked.requests)),
        difference_table(arms, "the teacher"),
        fidelity_table(arms, "the teacher"),
    ):
        console.print(table)
    for arm in arms:
        if arm != TEACHER and arm != BEFORE:
            back = {metric: found.given_back(arm, metric) for metric in (NDCG, HIT)}
            told = ", ".join(f"{m} {e.value:.3f} [{e.low:.3f}, {e.high:.3f}]" for m, e in back.items())
            console.print(f"given back by {arm}: {told}", markup=False, highlight=False)
    if bias := arms[TEACHER].position_bias:
        console.print(f"the teacher agrees with itself in another order: top 1 {bias.top1_agreement:.3f}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("models", type=Path, help="folder of the teachers' folders")
    parser.add_argument("runs", type=Path, help="folder of the students' folders")
    parser.add_argument("--beauty", type=Path, help="folder with items.jsonl.gz and interactions.jsonl.gz")
    parser.add_argument("--bed", choices=("embedded", "beauty"), help="only this one")
    parser.add_argument("--requests", type=int, default=1000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", type=Path, help="write figures and claims here")
    parser.add_argument("--plots", type=Path, help="write distil-embedded.png and distil-beauty.png into this folder")
    args = parser.parse_args()
    console = Console()
    beds: dict[str, CatalogueSettings] = {"embedded": CatalogueSettings()}
    if args.beauty:
        paths = {"items": args.beauty / "items.jsonl.gz", "events": args.beauty / "interactions.jsonl.gz"}
        beds["beauty"] = CatalogueSettings(format="jsonl", paths=paths)
    for folder in filter(None, (args.plots, args.json and args.json.parent)):
        folder.mkdir(parents=True, exist_ok=True)
    results: dict[str, Any] = {"benchmark": "distil", "seed": args.seed, "beds": {}}
    claims: list[Claim] = []
    for bed, catalogue in beds.items():
        if (args.bed and args.bed != bed) or not list(args.runs.glob(f"{bed}-*/model")):
            continue
        found = run_bed(console, bed, catalogue, args.models, args.runs, args.requests, args.seed)
        show(console, found)
        claims += claims_of(bed, found, args.runs)
        results["beds"][bed] = result(bed, found, args.runs)
        if args.json:
            write_report(args.json, results, claims)
        if args.plots:
            title = f"n = {args.requests:,}, seed {args.seed}: {found.dataset.origin}"
            write_plot(args.plots / f"distil-{bed}.png", found.summaries, {}, title, has_teacher=True)
    for claim in claims:
        verdict = "holds" if claim.holds else "FAILS"
        print(f"{verdict}: {claim.name}: {claim.value:.4f} ({'>=' if claim.at_least else '<='} {claim.target:.4f})")


if __name__ == "__main__":
    main()
