"""Whether the tests notice: plants one-line mutations in a copy of this tree, one at a time, and runs tests there.

`benchmarks/mutations.yaml` lists them: by file, the tests that are to notice, and pairs of an old text, which the file
has once, and a new one. Each changes what the code does, so each that goes unnoticed is a test to write.

    python benchmarks/mutations.py [WORD ...]     # only those whose file or new text has one of the words

Tests run in forks of this process, which has imported the libraries already. Each takes seconds to half a minute.
"""

import contextlib
import importlib
import os
import shutil
import signal
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).parents[1]
LIST = Path(__file__).with_suffix(".yaml")
COPIED = ("rcjax", "tests", "benchmarks", "configs", "notebooks", "pyproject.toml", "Makefile")
LIBRARIES = ("jax.numpy", "flax.nnx", "optax", "transformers", "orbax.checkpoint", "hypothesis", "faiss", "pydantic")
TIMEOUT_S = 600
BROKEN = 99  # the exit code where pytest did not come to its end
# The last: hypothesis, imported before pytest, is not one of its own.
PYTEST = ("-x", "-q", "-p", "no:cacheprovider", "--hypothesis-seed=0", "-Wignore::pytest.PytestAssertRewriteWarning")


@dataclass(frozen=True, slots=True)
class Mutation:
    """One change of a line, and the test files that should fail with it."""

    file: str
    old: str
    new: str
    tests: tuple[str, ...]


def listed() -> Iterator[Mutation]:
    for file, entry in yaml.safe_load(LIST.read_text(encoding="utf-8")).items():
        for old, new, *tests in entry["mutations"]:
            yield Mutation(file, old, new, tuple((tests[0] if tests else entry["tests"]).split()))


def planted(tree: Path, mutation: Mutation, mtime_s: int) -> str:
    """What came of a mutation in `tree`, which is left as it was: noticed, UNNOTICED, or why there is no saying."""
    path = tree / mutation.file
    code = path.read_text(encoding="utf-8") if path.exists() else ""
    if code.count(mutation.old) != 1:
        return "STALE"  # the code has changed: mend the list
    before = path.stat()
    path.write_text(code.replace(mutation.old, mutation.new), encoding="utf-8")
    os.utime(path, (mtime_s, mtime_s))  # Python tells by it that what it compiled is of other code
    try:
        outcome = exit_code(tree, mutation.tests)
    finally:
        path.write_text(code, encoding="utf-8")
        os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    return {0: "UNNOTICED", 1: "noticed", -signal.SIGALRM: "noticed"}.get(outcome, f"BROKEN ({outcome})")


def exit_code(tree: Path, tests: tuple[str, ...]) -> int:
    """pytest's, of a process of its own, or less the signal that ended it."""
    child = os.fork()
    if child == 0:
        try:
            run_here(tree, tests)
        finally:
            os._exit(BROKEN)
    _, status = os.waitpid(child, 0)
    with contextlib.suppress(ProcessLookupError):  # what a test started and left behind
        os.killpg(child, signal.SIGKILL)
    return os.waitstatus_to_exitcode(status)


def run_here(tree: Path, tests: tuple[str, ...]) -> None:
    """Runs tests and ends this process."""
    signal.alarm(TIMEOUT_S)
    os.setpgid(0, 0)
    os.chdir(tree)
    sys.path.insert(0, str(tree))  # the copy goes before an installed rcjax
    os.environ["PYTHONPATH"] = str(tree)
    with (tree / "output.txt").open("w") as file:
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
    os._exit(pytest.main([*PYTEST, *tests]))


def copied(folder: str) -> Path:
    tree = Path(folder, "tree")
    tree.mkdir()
    for name in COPIED:
        if (ROOT / name).is_dir():
            shutil.copytree(ROOT / name, tree / name, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy2(ROOT / name, tree / name)
    return tree


def main(words: list[str]) -> int:
    """Exits with 1 unless every mutation is noticed."""
    os.environ["JAX_PLATFORMS"] = "cpu"
    for name in LIBRARIES:
        importlib.import_module(name)
    wanted = [m for m in listed() if not words or any(word in m.file or word in m.new for word in words)]
    outcomes: Counter[Any] = Counter()
    with tempfile.TemporaryDirectory() as folder:
        tree, start_s = copied(folder), time.time()
        for number, mutation in enumerate(wanted):
            before_s = time.perf_counter()
            outcome = planted(tree, mutation, int(start_s) + 10 * number)
            outcomes[outcome] += 1
            seconds = time.perf_counter() - before_s
            print(f"{outcome:<10} {seconds:4.0f} s  {mutation.file}: {mutation.old!r} -> {mutation.new!r}", flush=True)
    print(f"{outcomes['noticed']} of {len(wanted)} noticed", dict(outcomes))
    return int(outcomes["noticed"] < len(wanted))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
