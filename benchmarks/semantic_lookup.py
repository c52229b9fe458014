"""The lookup half of benchmarks/semantic.py: how fast it is, and how much of a new history it finds."""

import time
from collections.abc import Callable, Sequence
from typing import Any

import faiss
import numpy as np

from rcjax.cache.semantic import InstanceFields, SemanticPool, TokenEmbedding

ASKED_TOKENS = 300
SIMILARITIES = (0.99, 0.95, 0.9)
# name -> position_weight, context_weight; "paper" has no context
EMBEDDINGS = {"paper": (0.5, 0.0), "context": (0.25, 0.25)}
NUM_CHECKED = 1_000  # tokens compared with every prototype, at full width


def embedding_of(name: str, table: np.ndarray, max_position: int, num_dims: int = 16) -> TokenEmbedding:
    position_weight, context_weight = EMBEDDINGS[name]
    return TokenEmbedding.of(
        table,
        max_position=max_position,
        position_weight=position_weight,
        context_weight=context_weight,
        num_dims=num_dims,
    )


def index_only(
    histories: Sequence[np.ndarray], embedding: TokenEmbedding, fields: InstanceFields, start: int, **limits: int
) -> SemanticPool:
    """A pool whose KV is one value a token: enough to measure finding."""

    def no_kv(ids: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        empty = np.zeros((1, len(ids), 1, 1), np.float16)
        return empty, empty

    return SemanticPool.build(histories, no_kv, embedding, fields, instruction_key=b"", start=start, **limits)


def lookup_times(pool: SemanticPool, histories: Sequence[np.ndarray], repeats: int) -> dict[str, Any]:
    """Milliseconds to look up 300 tokens, as a whole and by stage; the texts of all tokens are known by then."""
    joined = np.concatenate(list(histories))
    asked = [joined[at : at + ASKED_TOKENS] for at in range(0, len(joined) - ASKED_TOKENS, ASKED_TOKENS)]
    stages: dict[str, Callable[[np.ndarray], Any]] = {
        "fields": pool.fields.mask,
        "embedding": lambda ids: pool.embedding.surroundings(ids, pool.start),
        "lookup": lambda ids: pool.lookup(ids, min_similarity=0.9),
    }
    return {"num_prototypes": pool.num_prototypes, "num_tokens": ASKED_TOKENS} | {
        name: _percentiles(
            [milliseconds(stage, asked[i % len(asked)]) for i in range(-len(asked), repeats)][len(asked) :]
        )
        for name, stage in stages.items()
    }


def alternatives(pool: SemanticPool, histories: Sequence[np.ndarray]) -> dict[str, Any]:
    """Other indexes over the same whole vectors: time for 300 tokens, and share of the best matches that they find."""
    vectors = whole_vectors(pool)
    asked = np.concatenate([pool.embedding.vectors(ids, pool.start)[~pool.fields.mask(ids)] for ids in histories])
    asked = asked[: 5 * ASKED_TOKENS]
    num_dims = vectors.shape[1]
    flat = faiss.IndexFlatIP(num_dims)
    inverted = faiss.IndexIVFFlat(faiss.IndexFlatIP(num_dims), num_dims, 1024, faiss.METRIC_INNER_PRODUCT)
    inverted.cp.niter = 5
    graph = faiss.IndexHNSWFlat(num_dims, 16, faiss.METRIC_INNER_PRODUCT)
    indexes = {"brute force": flat, "k-means, 1024 lists, 1 probed": inverted, "HNSW": graph}
    indexes |= {f"LSH, {bits} bits": faiss.IndexLSH(num_dims, bits) for bits in (64, 256)}
    measured, best = {}, np.zeros(0)
    for name, index in indexes.items():
        index.train(vectors)
        index.add(vectors)
        found = index.search(asked, 1)[1][:, 0]
        cosine = np.where(found >= 0, np.einsum("tf,tf->t", vectors[found], asked), -1)
        best = cosine if index is flat else best
        times = [
            milliseconds(lambda rows, index=index: index.search(rows, 1), asked[at : at + ASKED_TOKENS])
            for at in range(0, len(asked), ASKED_TOKENS)
        ]
        measured[name] = _percentiles(times) | {"recall": float((cosine >= best - 1e-4).mean())}
    return measured


def coverage(pool: SemanticPool, histories: Sequence[np.ndarray]) -> dict[str, Any]:
    """Of new histories' tokens: the instance-specific share, and of the others the share with a match that near."""
    matches = [pool.lookup(ids, min_similarity=0.0) for ids in histories]
    similarity = np.concatenate([match.similarity for match in matches])
    specific = np.concatenate([pool.fields.mask(ids) for ids in histories])
    shared = similarity[~specific]
    return {
        "num_prototypes": pool.num_prototypes,
        "num_histories": len(histories),
        "num_tokens": len(similarity),
        "instance_specific": float(specific.mean()),
        "matched": {str(limit): float((shared >= limit).mean()) for limit in SIMILARITIES},
        "matched_of_all": {str(limit): float(((similarity >= limit) & ~specific).mean()) for limit in SIMILARITIES},
    }


def other_tokens(pool: SemanticPool, histories: Sequence[np.ndarray]) -> dict[str, float]:
    """Among the best matches of that cosine by brute force over all prototypes, the share that is another token."""
    ids = np.concatenate([ids[~pool.fields.mask(ids)] for ids in histories])
    rows = np.concatenate([pool.embedding.vectors(ids, pool.start)[~pool.fields.mask(ids)] for ids in histories])
    some = np.random.default_rng(0).permutation(len(ids))[:NUM_CHECKED]
    cosine, found = faiss.knn(rows[some], whole_vectors(pool), 1, faiss.METRIC_INNER_PRODUCT)
    differs = pool.prototypes.token_ids[found[:, 0]] != ids[some]
    near = {limit: cosine[:, 0] >= limit for limit in SIMILARITIES}
    return {str(limit): float(differs[is_near].mean()) for limit, is_near in near.items() if is_near.any()}


def whole_vectors(pool: SemanticPool) -> np.ndarray:
    tokens = np.sqrt(np.float32(pool.embedding.token_weight)) * pool.embedding.tokens[pool.prototypes.token_ids]
    return np.concatenate([tokens, pool.prototypes.surroundings], axis=1)


def milliseconds(call: Callable[..., Any], *arguments: Any) -> float:
    start = time.perf_counter()
    call(*arguments)
    return (time.perf_counter() - start) * 1e3


def _percentiles(times: list[float]) -> dict[str, float]:
    return {"best_ms": min(times)} | {f"p{at}_ms": float(np.percentile(times, at)) for at in (50, 90, 99)}
