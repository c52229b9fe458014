"""The KV half of benchmarks/semantic.py: how far semantic KV is from exact KV, and what that does to a ranking."""

import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from bare_slice import BareSlice
from rich.progress import track
from semantic_lookup import EMBEDDINGS, embedding_of

from rcjax.cache import CachedBlock
from rcjax.cache.semantic import InstanceFields, Match, SemanticPool
from rcjax.catalog.embedded import EmbeddedWorld
from rcjax.catalog.types import Request
from rcjax.engine.assembly import Row, Source
from rcjax.evaluation.bootstrap import interval, resampled_means
from rcjax.evaluation.fidelity import fidelity, kl_divergence
from rcjax.model.scoring import Scorer
from rcjax.prompt import BlockKind, Layout, Owner, Prompt, Reuse, Scoring

MIN_SIMILARITY = 0.9
BOUNDARY_TOKENS = 4  # of each item computed again, as the default arm does
CORRECTED_SHARE = 0.3  # the paper's r_review
ANOTHER_USER = "another user's history, exact"
LayerErrors = dict[str, np.ndarray]  # "k", "v" -> [2, L]: squared differences and squared values


@dataclass
class Arm:
    """One way to give a request its history: what was ranked, against exact KV, and at what price."""

    pairs: list[tuple[np.ndarray, np.ndarray]] = field(default_factory=list)
    fresh_shares: list[float] = field(default_factory=list)
    pass_ms: list[float] = field(default_factory=list)

    def summary(self, seed: int) -> dict[str, Any]:
        measured = fidelity(self.pairs)
        kl = np.array([[kl_divergence(exact, scores)] for exact, scores in self.pairs])
        low, high = interval(resampled_means(kl, list(map(str, range(len(kl)))), seed=seed))
        return {
            "n": measured.num_requests,
            "kl_nats": measured.kl_nats,
            "kl_nats_interval": [float(low[0]), float(high[0])],
            "top1_agreement": measured.top1_agreement,
            "kendall_tau": measured.kendall_tau,
            "history_fresh_share": float(np.mean(self.fresh_shares)),
            "pass_p50_ms": float(np.median(self.pass_ms)),
        }


class HistoryKV:
    """Exact KV of histories, by the engine that serves them; each is computed once."""

    def __init__(self, bare: BareSlice):
        self._bare = bare
        self._known: dict[bytes, tuple[np.ndarray, np.ndarray]] = {}
        self.prefill_ms: list[float] = []

    def __call__(self, ids: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """K (unrotated) and V [L, T, K, H] right after the instruction."""
        key = ids.tobytes()
        if key not in self._known:
            start = time.perf_counter()
            with self._bare.pinned([self._bare.builder.history_block(ids, Owner("", "sampled"))]) as (cached,):
                self.prefill_ms.append((time.perf_counter() - start) * 1e3)
                pages = self._bare.cache.executor.read_pages(cached.pages)
            layers, _, _, *heads = pages.k.shape
            k, v = (np.asarray(some).reshape(layers, -1, *heads)[:, : len(ids)] for some in (pages.k, pages.v))
            self._known[key] = k, v
        return self._known[key]


def measure(
    bare: BareSlice,
    world: EmbeddedWorld,
    sampled: Sequence[np.ndarray],
    fields: InstanceFields,
    num_requests: int,
    max_prototypes: int,
    seed: int,
) -> dict[str, Any]:
    """KV errors by layer, fidelity of the ranking and times, for each embedding."""
    exact = HistoryKV(bare)
    for ids in track(sampled, "exact KV of sampled histories"):
        exact(ids)
    prefill_tokens = list(map(len, sampled))
    table, start = bare.embedding, len(bare.builder.instruction_ids)
    limit = start + bare.settings.limits.max_history_tokens
    pools = {
        name: SemanticPool.build(
            sampled, exact, embedding_of(name, table, limit), fields,
            instruction_key=bare.cache.keys.instruction, start=start, max_prototypes=max_prototypes, seed=seed,
        )
        for name in EMBEDDINGS
    }  # fmt: skip
    bench = RankingBench(bare, world, exact, pools)
    requests = list(world.requests(num_requests, split="test"))
    for request, other in track(list(zip(requests, np.roll(requests, 1), strict=True)), "requests"):
        bench.ask(request, other)
    return {
        "num_sampled_histories": len(sampled),
        "pools": {
            name: {"num_prototypes": pool.num_prototypes, "num_bytes": pool.num_bytes} for name, pool in pools.items()
        },
        "kv_relative_error": bench.relative_errors(),
        "similarity_error_correlation": {
            name: float(np.corrcoef(np.concatenate(pairs, axis=1))[0, 1]) for name, pairs in bench.by_token.items()
        },
        "arms": {name: arm.summary(seed) for name, arm in bench.arms.items()},
        "fetch_p50_ms": {stage: float(np.median(times)) for stage, times in bench.fetch_ms.items()},
        "history_tokens_p50": float(np.median(prefill_tokens)),
        "prefill_p50_ms": float(np.median(exact.prefill_ms)),
    }


class RankingBench:
    """Ranks each request with its history's exact KV, with KV from the pools, and with another user's history."""

    def __init__(self, bare: BareSlice, world: EmbeddedWorld, exact: HistoryKV, pools: Mapping[str, SemanticPool]):
        self._bare = bare
        self._world = world
        self._exact = exact
        self._pools = pools
        self._scorer = Scorer.of(bare.builder)
        self.arms: dict[str, Arm] = {}
        self.fetch_ms: dict[str, list[float]] = {"lookup": [], "gather": [], "write": []}
        self.by_token: dict[str, list[np.ndarray]] = {name: [] for name in pools}
        self._errors: dict[str, LayerErrors] = {name: {"k": np.zeros((2, 1)), "v": np.zeros((2, 1))} for name in pools}

    def ask(self, request: Request, other: Request) -> None:
        prompt, ids = self._prompt(request, request.user_id), self._history(request.user_id)
        with self._pinned(prompt) as (sources, history, pinned):
            table = [block.pages for block in pinned]
            reference, pass_ms = self._scores(prompt, sources, table)
            self._note("exact", reference, reference, 0.0, pass_ms)
            for name, pool in self._pools.items():
                match = self._fetch(pool, ids, pinned[list(sources).index(history)].pages)
                deviation = self._compare(name, pool, match, ids)
                num_corrected = round(CORRECTED_SHARE * len(ids))
                corrected = ~match.taken
                corrected[np.argsort(-deviation, kind="stable")[:num_corrected]] = True
                for arm, fresh in ((name, ~match.taken), (f"{name}, corrected", corrected)):
                    offsets = np.flatnonzero(fresh).astype(np.int32)
                    changed = {**sources, history: Source(len(ids), offsets)}
                    scores, pass_ms = self._scores(prompt, changed, table)
                    self._note(arm, reference, scores, float(fresh.mean()), pass_ms)
        # The block's pages now hold semantic KV under the key of exact KV.
        self._bare.cache.directory.drop(BlockKind.HISTORY, Owner("", request.user_id), 0)
        prompt = self._prompt(request, other.user_id)
        with self._pinned(prompt) as (sources, _, pinned):
            scores, pass_ms = self._scores(prompt, sources, [block.pages for block in pinned])
            self._note(ANOTHER_USER, reference, scores, 0.0, pass_ms)

    def relative_errors(self) -> dict[str, dict[str, list[float]]]:
        """Per layer, root of summed squared differences over summed squares of the taken tokens' exact KV."""
        return {
            name: {which: np.sqrt(sums[0] / sums[1]).tolist() for which, sums in errors.items()}
            for name, errors in self._errors.items()
        }

    def _history(self, user_id: str) -> np.ndarray:
        ids: np.ndarray = self._bare.history_ids(self._world.user(user_id).events)
        return ids

    def _prompt(self, request: Request, user_id: str) -> Prompt:
        builder = self._bare.builder
        history = builder.history_block(self._history(user_id), Owner("", user_id))
        items = [builder.item_block(self._world.items[item_id]) for item_id in request.candidates]
        return builder.build(history, items, Layout.SEQUENTIAL, Scoring.LABEL)

    @contextmanager
    def _pinned(self, prompt: Prompt) -> Iterator[tuple[dict[int, Source], int, list[CachedBlock]]]:
        """Sources of the blocks that the default arm takes from the cache, the index of the history, and the blocks."""
        indices = [i for i, block in enumerate(prompt.blocks) if block.kind in Reuse.BLOCKS.kinds]
        blocks = [prompt.blocks[i] for i in indices]
        sources = {}
        for i, block in zip(indices, blocks, strict=True):
            num_selected = BOUNDARY_TOKENS if block.kind is BlockKind.ITEM else 0
            sources[i] = Source(len(block), np.arange(num_selected, dtype=np.int32))
        with self._bare.pinned(blocks) as cached:
            yield sources, next(i for i in indices if prompt.blocks[i].kind is BlockKind.HISTORY), cached

    def _fetch(self, pool: SemanticPool, ids: np.ndarray, pages: tuple[int, ...]) -> Match:
        """Looks the history up and overwrites its pages with what was found."""
        times = [time.perf_counter()]
        match = pool.lookup(ids, min_similarity=MIN_SIMILARITY)
        times.append(time.perf_counter())
        found = pool.pages(match, self._bare.page_tokens)
        times.append(time.perf_counter())
        self._bare.cache.executor.write_pages(pages, found)
        times.append(time.perf_counter())
        for stage, seconds in zip(self.fetch_ms, np.diff(times), strict=True):
            self.fetch_ms[stage].append(float(seconds) * 1e3)
        return match

    def _compare(self, name: str, pool: SemanticPool, match: Match, ids: np.ndarray) -> np.ndarray:
        """Adds to the layers' errors; returns the tokens' squared deviation in layer 1, by which CacheBlend picks."""
        deviation = np.full(len(ids), -1.0)
        deviation[match.taken] = 0
        of_token = np.zeros((2, int(match.taken.sum())))
        for which, found, all_exact in zip("kv", pool.kv(match.prototypes[match.taken]), self._exact(ids), strict=True):
            exact = all_exact[:, match.taken].astype(np.float32)
            squares = np.stack([(found - exact) ** 2, exact**2]).sum((-1, -2))  # [2, L, T]
            self._errors[name][which] = self._errors[name][which] + squares.sum(-1)
            deviation[match.taken] += squares[0, 1]
            of_token += squares.sum(1)
        self.by_token[name].append(np.stack([match.similarity[match.taken], of_token[0] / of_token[1]]))
        return deviation

    def _scores(
        self, prompt: Prompt, sources: Mapping[int, Source], table: Sequence[Sequence[int]]
    ) -> tuple[np.ndarray, float]:
        row = Row(prompt.blocks, sources, prompt.readouts, self._bare.page_tokens)
        start = time.perf_counter()
        logits = self._bare.logits(row, table)
        pass_ms = (time.perf_counter() - start) * 1e3
        num_candidates = sum(block.kind is BlockKind.ITEM for block in prompt.blocks)
        return self._scorer.scores(logits, prompt.scoring, num_candidates), pass_ms

    def _note(self, arm: str, reference: np.ndarray, scores: np.ndarray, share: float, pass_ms: float) -> None:
        into = self.arms.setdefault(arm, Arm())
        into.pairs.append((reference, scores))
        into.fresh_shares.append(share)
        into.pass_ms.append(pass_ms)
