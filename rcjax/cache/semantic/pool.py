"""The semantic pool: prototypes of history tokens, their KV in host memory, and looking histories up in it."""

from collections.abc import Callable, Collection, Generator, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float32, Int32, Int64, Shaped

from rcjax.cache.semantic.clustering import Hyperplanes, cluster, medoids
from rcjax.cache.semantic.embedding import TokenEmbedding
from rcjax.cache.semantic.fields import InstanceFields
from rcjax.cache.semantic.index import PrototypeIndex
from rcjax.kernels.kv import KVPages

# A history's token ids -> its exact K (unrotated) and V, each [L, T, K, H], computed right after the instruction.
KV = tuple[np.ndarray, np.ndarray]
KVSource = Callable[[np.ndarray], KV]


@dataclass(frozen=True, slots=True, eq=False)
class Match:
    """What a lookup found for each of a history's T tokens.

    `prototypes` is -1, and `similarity` 0, for a token that has none. The KV of the tokens that are not `taken` must be
    computed: they are instance-specific, or no prototype is near enough.
    """

    prototypes: Int64[np.ndarray, "T"]
    similarity: Float32[np.ndarray, "T"]
    taken: Bool[np.ndarray, "T"]

    @property
    def fresh_offsets(self) -> Int32[np.ndarray, "F"]:
        """Offsets of the tokens to compute: to be selected, whatever else a policy selects."""
        return np.flatnonzero(~self.taken).astype(np.int32)


@dataclass(frozen=True, slots=True, eq=False)
class Prototypes:
    """P prototypes by ascending token: the tokens, what surrounds them in embedding space, and their KV.

    KV is token-major, unlike pages, so that a lookup copies two runs of `L * K * H` values for each token. `histories`
    says which of those that the pool was built from each comes from.
    """

    token_ids: Int32[np.ndarray, "P"]
    surroundings: Float32[np.ndarray, "P G"]
    k: Shaped[np.ndarray, "P L K H"]
    v: Shaped[np.ndarray, "P L K H"]
    histories: Int64[np.ndarray, "P"]


class SemanticPool:
    """KV of tokens that sampled histories hold, for histories whose own KV was never computed.

    The KV is approximate: it is that of the same token at a near position in another history. It holds only for
    the instruction it was computed after: `instruction_key` is that block's key, which also covers the model,
    tokenizer, template and KV dtype. Immutable, so any thread may look up.
    """

    def __init__(
        self,
        prototypes: Prototypes,
        embedding: TokenEmbedding,
        fields: InstanceFields,
        instruction_key: bytes,
        start: int,
    ):
        self.prototypes = prototypes
        self.embedding = embedding
        self.fields = fields
        self.instruction_key = instruction_key
        self.start = start
        self._index = PrototypeIndex(prototypes.token_ids, prototypes.surroundings, len(embedding.tokens))

    @classmethod
    def build(
        cls,
        histories: Sequence[Int32[np.ndarray, "_"]],
        kv_source: KVSource,
        embedding: TokenEmbedding,
        fields: InstanceFields,
        *,
        instruction_key: bytes,
        start: int,
        max_prototypes: int = 100_000,
        seed: int = 0,
    ) -> "SemanticPool":
        """Clusters the tokens of sampled histories and keeps the KV of each cluster's representative.

        As `building`, with `kv_source` called for each history that is yielded.
        """
        steps = cls.building(
            histories,
            embedding,
            fields,
            instruction_key=instruction_key,
            start=start,
            max_prototypes=max_prototypes,
            seed=seed,
        )
        kv = None
        while True:
            try:
                wanted = steps.send(kv)
            except StopIteration as end:
                pool: SemanticPool = end.value
                return pool
            kv = kv_source(wanted)

    @classmethod
    def building(
        cls,
        histories: Sequence[Int32[np.ndarray, "_"]],
        embedding: TokenEmbedding,
        fields: InstanceFields,
        *,
        instruction_key: bytes,
        start: int,
        max_prototypes: int = 100_000,
        seed: int = 0,
    ) -> "Generator[np.ndarray, KV | None, SemanticPool]":
        """The steps of `build`: yields each history that has a representative, and is sent its exact KV.

        Histories begin at position `start`, right after the instruction; instance-specific tokens are left out. The
        same arguments give the same pool. ValueError if no token is left to cluster.
        """
        if max_prototypes < 1:
            raise ValueError(f"{max_prototypes=} must be at least 1")
        taken = [np.flatnonzero(~fields.mask(ids)) for ids in histories]
        if not sum(map(len, taken)):
            raise ValueError(
                f"{len(histories)} histories hold no token that another history could use: all are instance-specific"
            )
        hyperplanes = Hyperplanes(embedding.num_dims, seed)
        all_codes, all_surroundings = [], []
        for ids, kept in zip(histories, taken, strict=True):
            vectors = embedding.vectors(ids, start)[kept]
            all_codes.append(hyperplanes.codes(vectors))
            # The columns before are the token's own, which are equal within a cluster.
            all_surroundings.append(vectors[:, embedding.tokens.shape[1] :])
        tokens = np.concatenate([ids[kept] for ids, kept in zip(histories, taken, strict=True)])
        around = np.concatenate(all_surroundings)
        chosen = medoids(around, *cluster(tokens, np.concatenate(all_codes), max_prototypes))

        history_of = np.repeat(np.arange(len(histories)), [len(kept) for kept in taken])[chosen]
        offset_of = np.concatenate(taken)[chosen]
        k, v = yield from _materialise(histories, history_of, offset_of)
        prototypes = Prototypes(tokens[chosen], around[chosen], k, v, history_of)
        return cls(prototypes, embedding, fields, instruction_key, start)

    def without(self, histories: Collection[int]) -> "SemanticPool":
        """The pool of the other histories; nothing of these is in it. Copies what stays."""
        p = self.prototypes
        stays = ~np.isin(p.histories, list(histories))
        kept = Prototypes(*(column[stays] for column in (p.token_ids, p.surroundings, p.k, p.v, p.histories)))
        return SemanticPool(kept, self.embedding, self.fields, self.instruction_key, self.start)

    @property
    def num_prototypes(self) -> int:
        return len(self.prototypes.token_ids)

    @property
    def num_bytes(self) -> int:
        """Host memory of KV, prototypes and embedding; the index holds `surroundings` a second time."""
        p = self.prototypes
        return p.k.nbytes + p.v.nbytes + p.token_ids.nbytes + 2 * p.surroundings.nbytes + self.embedding.tokens.nbytes

    def lookup(self, token_ids: Int32[np.ndarray, "T"], *, min_similarity: float) -> Match:
        """The nearest prototype of each token of a whole history, which begins at `self.start`."""
        around = self.embedding.surroundings(token_ids, self.start)
        prototypes, product = self._index.search(token_ids, around)
        found = prototypes >= 0
        similarity = np.where(found, np.float32(self.embedding.token_weight) + product, np.float32(0))
        taken = found & (similarity >= min_similarity) & ~self.fields.mask(token_ids)
        return Match(prototypes, similarity, taken)

    def kv(
        self, prototypes: Int64[np.ndarray, "T"]
    ) -> tuple[Shaped[np.ndarray, "L T K H"], Shaped[np.ndarray, "L T K H"]]:
        """K (unrotated) and V of prototypes; ValueError for one that does not exist."""
        if len(prototypes) and not 0 <= prototypes.min() <= prototypes.max() < self.num_prototypes:
            raise ValueError(
                f"prototypes {prototypes.min()}..{prototypes.max()} must be 0 to {self.num_prototypes - 1}; "
                "ask only for those that a match has taken"
            )
        k, v = self.prototypes.k[prototypes], self.prototypes.v[prototypes]
        return k.swapaxes(0, 1), v.swapaxes(0, 1)

    def pages(self, match: Match, page_tokens: int) -> KVPages:
        """K and V of a history as the W pages that hold it, zero where a token is not taken and beyond the end."""
        _, layers, *heads = self.prototypes.k.shape
        num_pages = -(-len(match.taken) // page_tokens)
        slots = np.flatnonzero(match.taken)
        filled = []
        for some in self.kv(match.prototypes[match.taken]):
            pages = np.zeros((layers, num_pages * page_tokens, *heads), some.dtype)
            pages[:, slots] = some
            filled.append(pages.reshape(layers, num_pages, page_tokens, *heads))
        return KVPages(filled[0], filled[1])


def _materialise(
    histories: Sequence[Int32[np.ndarray, "_"]],
    history_of: Int64[np.ndarray, "P"],
    offset_of: Int64[np.ndarray, "P"],
) -> Generator[np.ndarray, KV | None, KV]:
    """The representatives' KV, a history at a time: only one history's KV exists beside the pool's."""
    both: list[np.ndarray] = []
    for history in np.unique(history_of):
        here = np.flatnonzero(history_of == history)
        exact = yield histories[history]
        if exact is None:
            raise ValueError("a step of `building` was not sent the KV that it asked for")
        if not both:
            layers, _, *heads = exact[0].shape
            both = [np.empty((len(history_of), layers, *heads), some.dtype) for some in exact]
        for pool, some in zip(both, exact, strict=True):
            if some.shape[1] != len(histories[history]):
                raise ValueError(f"the KV has {some.shape=} for a history of {len(histories[history])} tokens")
            pool[here] = some[:, offset_of[here]].swapaxes(0, 1)
    return both[0], both[1]
