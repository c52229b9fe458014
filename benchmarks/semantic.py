"""The semantic history pool: how fast a lookup is, how much it finds, and what its KV is worth.

    python benchmarks/semantic.py --json semantic.json --beauty FOLDER

Users of the train split build the pools, users of the test split look up. `paper` embeds a token and its position,
`context` also the tokens before it. KV is compared with exact KV of the same histories, layer by layer, and by the
ranking that follows (sequential layout, label scoring, items cached, their first 4 tokens and the history's
instance-specific tokens fresh). `corrected` computes 30% of the history again besides, chosen by its true deviation
after layer 1: what the policy `deviation` would choose. `another user's history` shows how much there is to lose.
"""

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from bare_slice import BareSlice
from claims import Claim, show_claims, write_report
from pydantic import ByteSize
from rich.console import Console
from rich.table import Table
from semantic_fidelity import measure
from semantic_lookup import EMBEDDINGS, alternatives, coverage, embedding_of, index_only, lookup_times, other_tokens

from rcjax.cache.semantic import InstanceFields
from rcjax.catalog.embedded import EmbeddedWorld
from rcjax.catalog.readers import CataloguePaths, load_catalogue
from rcjax.catalog.types import User
from rcjax.config import CacheSettings, Settings, ShapeSettings
from rcjax.model.spec import load_model

MAX_PROTOTYPES = 100_000
FILLED_SHARE = 0.9  # of MAX_PROTOTYPES, so that a lookup time speaks of a full pool
WHOLE_HISTORIES = 200  # whose tokens are compared at the model's full width, by brute force
TEST_SHARE = 0.1  # of the users of a data set that has no splits


def settings(model: str) -> Settings:
    rank = tuple((fresh, 192) for fresh in (224, 320, 416, 512, 768))
    build = tuple((fresh, 16) for fresh in (192, 256, 320, 384, 512))
    return Settings(
        model=model,
        adapter=None,
        shapes=ShapeSettings(rank=rank, build=build),
        cache=CacheSettings(pool_bytes=ByteSize(2**30)),
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=Path, help="write samples and claims here")
    parser.add_argument("--beauty", type=Path, help="folder with items.jsonl.gz and interactions.jsonl.gz")
    parser.add_argument("--model", default=Settings().model)
    parser.add_argument("--requests", type=int, default=24, help="ranked for the fidelity")
    parser.add_argument("--sampled", type=int, default=100, help="train users whose exact KV builds the pools")
    parser.add_argument("--lookup-users", type=int, default=1500, help="train users whose tokens fill the index")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    console = Console()
    world = EmbeddedWorld(args.seed)
    report: dict[str, Any] = {"benchmark": "semantic", "model": args.model, "seed": args.seed}
    with console.status("starting") as status:
        model = load_model(args.model)
        fields = InstanceFields(model.tokenizer.decode)
        bare = BareSlice(settings(args.model), model, status.update)
        status.update("lookups")
        train = [world.user(f"train-{n:05d}") for n in range(args.lookup_users)]
        test = [world.user(f"test-{n:05d}") for n in range(args.lookup_users // 10)]
        report["embedded"] = find(bare, fields, train, test, args.seed)
        if args.beauty and args.beauty.is_dir():
            status.update("lookups in beauty")
            report["beauty"] = find(bare, fields, *beauty_users(args.beauty, args.seed), args.seed)
        else:
            report["beauty"] = {"skipped": f"no folder {args.beauty}; name one with --beauty"}
    sampled = histories(bare, train[: args.sampled])
    report["kv"] = measure(bare, world, sampled, fields, args.requests, MAX_PROTOTYPES, args.seed)
    claims = claims_of(report)
    show(console, report)
    show_claims(claims)
    if args.json:
        write_report(args.json, report, claims)


def histories(bare: BareSlice, users: Sequence[User]) -> list[np.ndarray]:
    """Token ids of what a library would keep of each user."""
    return [bare.history_ids(user.events) for user in users]


def beauty_users(folder: Path, seed: int) -> tuple[list[User], list[User]]:
    """Train and test users, split at random."""
    paths = CataloguePaths(items=folder / "items.jsonl.gz", events=folder / "interactions.jsonl.gz")
    catalogue, _ = load_catalogue(paths)
    users = list(catalogue.users.values())
    order = np.random.default_rng(seed).permutation(len(users))
    num_test = round(TEST_SHARE * len(users))
    return [users[i] for i in order[num_test:]], [users[i] for i in order[:num_test]]


def find(
    bare: BareSlice, fields: InstanceFields, train: Sequence[User], test: Sequence[User], seed: int
) -> dict[str, Any]:
    """Coverage and lookup times of both embeddings, and of other indexes, on one data set."""
    table, start = bare.embedding, len(bare.builder.instruction_ids)
    limit = start + bare.settings.limits.max_history_tokens
    known, new = histories(bare, train), histories(bare, test)
    found: dict[str, Any] = {}
    for name in EMBEDDINGS:
        pool = index_only(
            known, embedding_of(name, table, limit), fields, start, max_prototypes=MAX_PROTOTYPES, seed=seed
        )
        found[name] = {"coverage": coverage(pool, new), "times": lookup_times(pool, new, repeats=300)}
        found[name]["alternatives"] = alternatives(pool, new)
        whole = embedding_of(name, table, limit, num_dims=table.shape[1])
        pool = index_only(known[:WHOLE_HISTORIES], whole, fields, start, max_prototypes=MAX_PROTOTYPES, seed=seed)
        found[name]["of_another_token"] = other_tokens(pool, new)
    return found


def claims_of(report: dict[str, Any]) -> list[Claim]:
    claims = []
    for data in ("embedded", "beauty"):
        if "skipped" in report[data]:
            continue
        for name, found in report[data].items():
            size = found["times"]["num_prototypes"]
            if size >= FILLED_SHARE * MAX_PROTOTYPES:
                claims.append(
                    Claim(
                        f"{data}, {name}: P50 of looking up 300 tokens in {size:,} prototypes, ms",
                        found["times"]["lookup"]["p50_ms"], 2, at_least=False,
                    )
                )  # fmt: skip
            if name != "paper":
                continue  # with a context the cosine means more, and 0.99 is rarer
            share = found["coverage"]["matched"]["0.99"]
            claims.append(Claim(f"{data}, {name}: share of new tokens with a match of cosine >= 0.99", share, 0.93))
    for arm, measured in report["kv"]["arms"].items():
        if arm.startswith(tuple(EMBEDDINGS)):
            claims.append(Claim(f"{arm}: top-1 agreement with exact history KV", measured["top1_agreement"], 0.95))
    return claims


def show(console: Console, report: dict[str, Any]) -> None:
    kv = report["kv"]
    table = Table(title=f"Against exact history KV, {report['model']}, n={kv['arms']['exact']['n']}")
    for column in ("history", "KL", "95% interval", "top-1", "Kendall", "fresh", "pass P50 ms"):
        table.add_column(column, justify="left" if column == "history" else "right")
    for arm, m in kv["arms"].items():
        low, high = m["kl_nats_interval"]
        table.add_row(
            arm, f"{m['kl_nats']:.1e}", f"{low:.1e}-{high:.1e}", f"{m['top1_agreement']:.3f}",
            f"{m['kendall_tau']:.3f}", f"{m['history_fresh_share']:.0%}", f"{m['pass_p50_ms']:.0f}",
        )  # fmt: skip
    console.print(table)
    for name, errors in kv["kv_relative_error"].items():
        for which, by_layer in errors.items():
            chosen = sorted({0, 1, len(by_layer) // 4, len(by_layer) // 2, 3 * len(by_layer) // 4, len(by_layer) - 1})
            parts = ", ".join(f"layer {layer} {by_layer[layer]:.3f}" for layer in chosen)
            console.print(f"{name}, relative error of {which.upper()}: {parts}; mean {np.mean(by_layer):.3f}")
    fetch = ", ".join(f"{stage} {ms:.1f}" for stage, ms in kv["fetch_p50_ms"].items())
    num_tokens, prefill_ms = kv["history_tokens_p50"], kv["prefill_p50_ms"]
    console.print(f"a history of {num_tokens:.0f} tokens: {fetch} ms; exact by prefill {prefill_ms:.0f} ms")


if __name__ == "__main__":
    main()
