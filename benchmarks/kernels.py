"""The attention operator by itself: a device's kernel beside JAX's own attention, and both beside what the chip allows.

    python benchmarks/kernels.py --json kernels.json    # on a device: times; on a CPU: a model, no time; --plot FILE
    python benchmarks/kernels.py --errors --reads       # the kernels, interpreted: minutes on a CPU
    python benchmarks/kernels.py --tune                 # on a device: writes its tuned table

Arms: `kernel` is `pallas_gpu` or `pallas_tpu`; `gather/xla` and `gather/cudnn` copy the cached keys and attend to the
copy; `full` is causal attention of the whole prompt to itself, by cuDNN where it takes the shape. One sample is a scan
of many layers, as a pass has, whose KV together fits no cache; views and masks are made before, once, as in a pass.
Arms run in random order. In float32 all multiply in float32: no arm may round its operands to TF32.

The fraction of bandwidth is what has to be read and written at least (each visible cached token once), over time and
over the rate of a large copy in the same run. `reached` is the same for whichever of bytes and FLOPs takes longer.
`bar` has 8 query heads, one for each kv head: with the 32 of `bar/group` arithmetic takes half as long again as reading
on an H100, so that no kernel could reach the fraction of bandwidth that is claimed.
"""

import argparse
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import jax
from claims import Claim, show_claims, write_report
from kernel_checks import claim_of_lists, measure_errors, measure_reads
from kernel_times import measure_times
from kernel_tuning import cases_of, tune, write_table
from kernel_work import ITEMSIZE, NOMINAL, SHAPES, TINY_SHAPES, Counts, Layouts, bandwidth_left, modelled, needed
from rich.console import Console
from rich.table import Table

from rcjax.kernels.kv import KV_DTYPES
from rcjax.kernels.selective_attention.case import Case
from rcjax.kernels.selective_attention.cases import CASES


def main() -> None:
    args = arguments()
    console = Console(width=max(Console().width, 120))
    report: dict[str, Any]
    if args.tune:
        dtype = args.dtypes[0]
        print(f"wrote {write_table(tune(cases_of(args.heads, dtype, args.kv_dtypes[0] or dtype)))}")
        return
    if args.errors or args.reads:
        report, claims = checks(args)
    else:
        shapes = TINY_SHAPES if args.interpret else SHAPES
        cases = [
            replace(shapes[name], dtype=dtype, kv_dtype=kv_dtype)
            for name in args.shapes
            for dtype in args.dtypes
            for kv_dtype in args.kv_dtypes
        ]
        report, claims = model_only(cases)
        if args.interpret or jax.default_backend() != "cpu":
            claims += measure_times(report, cases, args.rounds, args.interpret)
        show(console, report)
    show_claims(claims)
    if args.plot and "rows" in report:
        from kernel_plot import draw

        draw(report, args.plot)
    if args.json:
        write_report(args.json, report, claims)


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=Path, help="write samples, models and claims here")
    parser.add_argument("--plot", type=Path, help="draw times (or, without any, the model's bytes) here")
    parser.add_argument("--errors", action="store_true", help="of the interpreted kernels against the tests' oracle")
    parser.add_argument("--reads", action="store_true", help="count the pages that the interpreted kernels read")
    parser.add_argument(
        "--tune", action="store_true", help="write the device's tuned table, for the first dtypes given"
    )
    parser.add_argument("--cases", nargs="*", choices=[*CASES], metavar="NAME", help="of --errors; all by default")
    parser.add_argument("--dtypes", nargs="+", choices=[*ITEMSIZE], default=["bfloat16"])
    parser.add_argument("--kv-dtypes", nargs="+", choices=KV_DTYPES, default=[None], help="as --dtypes by default")
    parser.add_argument("--shapes", nargs="*", choices=[*SHAPES], default=[*SHAPES])
    parser.add_argument(
        "--heads", nargs=3, type=int, default=(32, 8, 128), metavar=("QUERY", "KV", "DIM"), help="of --tune"
    )
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--interpret", action="store_true", help=argparse.SUPPRESS)  # times' code on a CPU, tiny shapes
    return parser.parse_args()


def checks(args: argparse.Namespace) -> tuple[dict[str, Any], list[Claim]]:
    report: dict[str, Any] = {"benchmark": "kernels", "kind": "interpreted: numbers and reads, no times"}
    claims: list[Claim] = []
    if args.errors:
        found, claims = measure_errors(args.cases or [*CASES])
        report |= found
    if args.reads:
        reads, some = measure_reads(SHAPES["parallel/1"])
        report, claims = report | {"reads": reads}, claims + some
    return report, claims


def model_only(cases: Sequence[Case]) -> tuple[dict[str, Any], list[Claim]]:
    rows, claims = [], {}
    for case in cases:
        at = Layouts.of(case)
        counts = Counts.of(case, at)
        rows.append(model_of(case, at, counts))
        if case.tiles is not None:
            claims[case.name] = claim_of_lists(case, counts)
    report = {"benchmark": "kernels", "kind": "model: nothing was timed", "rows": rows}
    return report, [*claims.values()]


def model_of(case: Case, at: Layouts, counts: Counts) -> dict[str, Any]:
    works = {"needed": needed(case, counts), **modelled(case, at, counts)}
    left = {device: bandwidth_left(works["needed"], peaks, case.dtype) for device, peaks in NOMINAL.items()}
    return {
        "shape": case.name,
        "dtype": case.dtype,
        "kv_dtype": case.kv_dtype or case.dtype,
        "heads": [case.num_heads, case.num_kv_heads, case.head_dim],
        "counts": asdict(counts),
        "model": {arm: asdict(work) for arm, work in works.items()},
        "bandwidth_that_flops_leave": left,
    }


def show(console: Console, report: dict[str, Any]) -> None:
    is_timed = any("arms" in row for row in report["rows"])
    table = Table(title=f"One layer's attention; {report['kind']}")
    left = ("shape", "dtype / kv", "arm")
    for column in (*left, "MB", "GFLOP", "FLOP/byte", *(("µs", "of copy's bandwidth", "reached") if is_timed else ())):
        table.add_column(column, justify="left" if column in left else "right", no_wrap=column in left)
    for row in report["rows"]:
        for arm, work in row["model"].items():
            names = row["shape"], f"{row['dtype']} / {row['kv_dtype']}", arm
            table.add_row(*names, *figures(work), *(times(row, arm) if is_timed else ()))
    console.print(table)
    for row in report["rows"]:
        label = f"{row['shape']} {row['dtype']} / {row['kv_dtype']}"
        for arm, why in row.get("refused", {}).items():
            console.print(f"{label}: no {arm}: {why}", markup=False)
        parts = [f"{of} {part:.2f}" for of, part in row["bandwidth_that_flops_leave"].items() if part < 1]
        if parts:
            console.print(f"{label}: the bandwidth that FLOPs at their peak leave: {', '.join(parts)}")


def figures(work: dict[str, float]) -> list[str]:
    num_bytes, flops = work["num_bytes"], work["flops"]
    return [f"{num_bytes / 1e6:,.1f}", f"{flops / 1e9:,.2f}", f"{flops / num_bytes:,.0f}"]


def times(row: dict[str, Any], arm: str) -> list[str]:
    of_arm = next((values for name, values in row.get("arms", {}).items() if name.startswith(arm)), None)
    if of_arm is None:
        return ["", "", ""]
    return [f"{of_arm['p50_s'] * 1e6:,.0f}", f"{of_arm['bandwidth']:.2f}", f"{of_arm['reached']:.2f}"]


if __name__ == "__main__":
    main()
