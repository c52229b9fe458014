import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from rcjax.cache.semantic.clustering import NUM_HYPERPLANES, Hyperplanes, cluster, medoids


def bits(codes: np.ndarray) -> list[str]:
    return ["".join(f"{int(word):064b}" for word in row) for row in codes]


@st.composite
def occurrences(draw):
    """Tokens and codes, of which many share a long prefix."""
    num = draw(st.integers(0, 30))
    tokens = draw(st.lists(st.integers(0, 4), min_size=num, max_size=num))
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    codes = rng.integers(0, 2**64, (num, 4), dtype=np.uint64)
    for i in range(1, num):
        shared = draw(st.sampled_from([0, 1, 5, 64, 70, 255, 256]))
        joined = bits(codes[i - 1 : i])[0][:shared] + bits(codes[i : i + 1])[0][shared:]
        codes[i] = [int(joined[at : at + 64], 2) for at in range(0, 256, 64)]
    return np.array(tokens, np.int32), codes


@given(occurrences(), st.integers(1, 12))
def test_clusters_are_the_finest_prefix_buckets_that_fit(given_occurrences, limit):
    tokens, codes = given_occurrences
    members, starts = cluster(tokens, codes, limit)
    found = {frozenset(group.tolist()) for group in np.split(members, starts[1:])} if len(starts) else set()
    assert len(found) == len(starts) <= limit

    def buckets(num_bits: int) -> set[frozenset[int]]:
        by_code: dict[tuple[int, str], set[int]] = {}
        for i, code in enumerate(bits(codes)):
            by_code.setdefault((int(tokens[i]), code[:num_bits]), set()).add(i)
        return {frozenset(group) for group in by_code.values()}

    fitting = [num_bits for num_bits in range(NUM_HYPERPLANES + 1) if len(buckets(num_bits)) <= limit]
    if fitting:
        assert found == buckets(fitting[-1])
        return
    coarsest = buckets(0)  # the distinct tokens alone are too many: the rarest go
    assert found <= coarsest
    assert len(found) == limit
    assert min(map(len, found)) >= max(map(len, coarsest - found))


def test_a_code_names_the_side_of_each_plane():
    vectors = np.random.default_rng(3).standard_normal((5, 6)).astype(np.float32)
    codes = bits(Hyperplanes(6, seed=9).codes(vectors))
    normals = np.random.default_rng(9).standard_normal((6, NUM_HYPERPLANES)).astype(np.float32)
    for vector, code in zip(vectors, codes, strict=True):
        assert code == "".join("1" if vector @ normals[:, i] > 0 else "0" for i in range(NUM_HYPERPLANES))


def test_bits_are_shared_in_proportion_to_the_angle():
    angle = np.linspace(0, np.pi, 7)
    vectors = np.stack([np.cos(angle), np.sin(angle), np.zeros(7)], axis=1).astype(np.float32)
    shares = np.zeros(7)
    for seed in range(20):  # 5,120 planes: the share of equal bits has a standard error below 0.007
        codes = bits(Hyperplanes(3, seed).codes(vectors))
        shares += [np.mean([a == b for a, b in zip(codes[0], code, strict=True)]) / 20 for code in codes]
    np.testing.assert_allclose(shares, 1 - angle / np.pi, atol=0.035)


@given(st.lists(st.integers(1, 6), max_size=6), st.integers(0, 2**32 - 1))
def test_the_representative_is_the_member_nearest_to_the_mean(sizes, seed):
    rng = np.random.default_rng(seed)
    vectors = rng.standard_normal((sum(sizes) + 2, 3)).astype(np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    members = rng.permutation(len(vectors))[: sum(sizes)]
    starts = np.cumsum([0, *sizes])[:-1] if sizes else np.zeros(0, np.int64)
    chosen = medoids(vectors, members, starts)
    assert len(chosen) == len(sizes)
    for first, size, member in zip(starts, sizes, chosen, strict=True):
        group = members[first : first + size]
        assert member in group
        distance = np.linalg.norm(vectors - vectors[group].mean(0), axis=1)
        assert distance[member] <= distance[group].min() + 1e-5
