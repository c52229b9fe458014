"""The demo as a newcomer has it: how near its rankings come to the best possible, whether those from cached blocks are
those of full recompute, and how long it takes.

    python benchmarks/demo.py --json demo.json --html demo.html

The settings of `rcjax demo` (or --config, --adapter) on whatever device there is. Quality and seconds are the demo's
own, in the dtype that start-up chooses. Cached blocks and full recompute are compared once more in float32, over
--requests of the same shop: in 16 bits every score is rounded, which says nothing of the blocks.
"""

import argparse
from dataclasses import asdict
from pathlib import Path
from typing import Any

from claims import Claim, environment, show_claims, write_report
from rich.console import Console

from rcjax.commands.demo.report import DemoReport
from rcjax.commands.demo.run import demo_settings, run_demo
from rcjax.config import Settings, load_settings
from rcjax.evaluation.evaluation import EvalOptions, evaluate

SHARE, SCORE_DIFFERENCE, SECONDS = 0.85, 1e-4, 180.0


def main() -> None:
    args = parsed()
    settings = load_settings(args.config) if args.config else demo_settings()
    if args.adapter is not None:
        settings = settings.model_copy(update={"adapter": args.adapter or None})
    print(environment())
    report = run_demo(Console(), settings, args.shown, html=args.html, num_quality_requests=args.quality)
    difference = float32_difference(settings, report.quality.cached, args.requests)
    claims = [
        Claim("share of the way from chance to the best possible", report.quality.share, SHARE),
        Claim("largest difference of a score, cached and full, float32", difference, SCORE_DIFFERENCE, at_least=False),
        Claim("seconds of the demo", report.seconds, SECONDS, at_least=False),
    ]
    show_claims(claims)
    if args.json:
        raw = {"args": {name: str(value) for name, value in vars(args).items()}, **found(report)}
        write_report(args.json, {"benchmark": "demo", **raw}, claims)


def parsed() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--config", type=Path, help="settings; those of `rcjax demo` by default")
    parser.add_argument("--adapter", help="a LoRA adapter; the settings' by default, '' for none")
    parser.add_argument("--shown", type=int, default=3, help="requests that the demo shows in every arm")
    parser.add_argument("--quality", type=int, default=200, help="requests that its quality is measured over")
    parser.add_argument(
        "--requests", type=int, default=20, help="to compare cached blocks and full recompute in float32"
    )
    parser.add_argument("--html", type=Path, help="the demo's page")
    parser.add_argument("--json", type=Path)
    return parser.parse_args()


def float32_difference(settings: Settings, arm: str, num_requests: int) -> float:
    """The largest difference of any candidate's score between an arm and its full recompute."""
    catalogue = settings.catalogue.model_copy(update={"format": "embedded"})
    exact = settings.model_copy(update={"dtype": "float32", "catalogue": catalogue})
    evaluation = evaluate(Console(quiet=True), exact, EvalOptions(num_requests=num_requests, arms=(arm,)))
    fidelity = evaluation.summaries[arm].fidelity
    if fidelity is None:
        raise ValueError(f"arm {arm!r} is compared with nothing")
    return fidelity.max_score_difference


def found(report: DemoReport) -> dict[str, Any]:
    """What the claims come from."""
    quality = report.quality
    fidelity = quality.summaries[quality.cached].fidelity
    return {
        "model": asdict(report.info),
        "adapter": report.settings.adapter,
        "ttft_ms": {arm: [one.result.times.ttft_ms for one in of_arm] for arm, of_arm in report.answers.items()},
        "quality": [asdict(row) for row in quality.rows],
        "cached": quality.cached,
        "full": quality.full,
        "fidelity": None if fidelity is None else asdict(fidelity),
        "histories_s": quality.histories_s,
        "seconds": report.seconds,
    }


if __name__ == "__main__":
    main()
