"""The structure of the package, counted: files, functions, and imports that run back up.

    python benchmarks/structure.py --json structure.json

Generated code (rcjax/serving/v1) is left out. A function's lines are counted from its first decorator to its end, what
is nested in it included.
"""

import argparse
import ast
from pathlib import Path
from typing import Any

import numpy as np
from claims import Claim, show_claims, write_report
from layers import upward_imports

ROOT = Path(__file__).parents[1]
MAX_FUNCTION_LINES = 60
MAX_FILE_LINES = 300


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=Path, help="write figures and claims here")
    args = parser.parse_args()
    report = {"benchmark": "structure"} | {name: measure(ROOT / name) for name in ("rcjax", "tests", "benchmarks")}
    upward = upward_imports(ROOT / "rcjax")
    package = report["rcjax"]
    claims = [
        Claim("functions of rcjax over 60 lines", len(package["long_functions"]), 0, at_least=False),
        Claim("lines of the largest file of rcjax", package["largest"][0][1], MAX_FILE_LINES, at_least=False),
        Claim("imports that run back up", len(upward), 0, at_least=False),
    ]
    for name in ("rcjax", "tests", "benchmarks"):
        figures = report[name]
        largest = ", ".join(f"{path} {lines}" for path, lines in figures["largest"])
        long = ", ".join(figures["long_functions"]) or "none"
        print(
            f"{name}: {figures['num_files']} files, {figures['num_lines']:,} lines, median "
            f"{figures['median_lines']:.0f}, largest {largest}; {figures['num_functions']:,} functions, 95% under "
            f"{figures['p95_function_lines']:.0f} lines; over {MAX_FUNCTION_LINES} lines: {long}"
        )
    for line in upward:
        print("runs back up:", line)
    show_claims(claims)
    if args.json:
        write_report(args.json, report | {"upward_imports": upward}, claims)


def measure(folder: Path) -> dict[str, Any]:
    """Files and functions of a folder."""
    sizes, functions = [], []
    for path in sorted(folder.rglob("*.py")):
        if path.parent.name == "v1":
            continue
        text, name = path.read_text(encoding="utf-8"), str(path.relative_to(folder))
        if text:
            sizes.append((name, text.count("\n")))
        functions += [(f"{name}:{node.name}", _num_lines(node)) for node in ast.walk(ast.parse(text)) if _is_def(node)]
    lines = [num for _, num in sizes]
    lengths = [num for _, num in functions]
    return {
        "num_files": len(sizes),
        "num_lines": sum(lines),
        "median_lines": float(np.median(lines)),
        "largest": sorted(sizes, key=lambda size: -size[1])[:3],
        "num_functions": len(functions),
        "p95_function_lines": float(np.percentile(lengths, 95)),
        "long_functions": [f"{name} {num}" for name, num in functions if num > MAX_FUNCTION_LINES],
    }


def _is_def(node: ast.AST) -> bool:
    return isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)


def _num_lines(node: Any) -> int:
    first = min([node.lineno, *(decorator.lineno for decorator in node.decorator_list)])
    return int(node.end_lineno) - first + 1


if __name__ == "__main__":
    main()
