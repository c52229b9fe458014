"""Named cases of selective attention, shared by tests, tuning and benchmarks."""

from collections.abc import Sequence
from dataclasses import replace

from rcjax.kernels.selective_attention.case import Case, Row, Run


def sequential(instruction: int, history: int, items: Sequence[int], glue: int, task: int, selected: int = 0) -> Row:
    """Cached instruction and history, then for each item fresh glue and the cached item; task; causal attention.

    The first `selected` tokens of each item are selected.
    """
    runs = [Run(0, instruction, cached=True), Run(instruction, history, cached=True)]
    end = instruction + history
    for length in items:
        runs.append(Run(end, glue))
        runs.append(Run(end + glue, length, cached=True, selected=tuple(range(min(selected, length)))))
        end += glue + length
    return (*runs, Run(end, task))


def parallel(instruction: int, history: int, items: Sequence[int], glue: int, task: int, selected: int = 0) -> Row:
    """The same prompt with history and items side by side, each item closed by its own glue."""
    last = 2 + len(items)
    end = instruction + max(history, *items) + glue
    return (*_side_by_side(instruction, history, items, glue, selected), Run(end, task, segment=last, horizon=last))


def pointwise(instruction: int, history: int, items: Sequence[int], glue: int, task: int = 0, selected: int = 0) -> Row:
    """As `parallel`, but the task sees no item, so that the i-th item and its glue can be the i-th tile's."""
    end = instruction + max(history, *items) + glue
    return (*_side_by_side(instruction, history, items, glue, selected), Run(end, task, segment=1, horizon=2))


def _side_by_side(instruction: int, history: int, items: Sequence[int], glue: int, selected: int) -> Row:
    runs = [Run(0, instruction, cached=True), Run(instruction, history, cached=True, segment=1, horizon=1)]
    for i, length in enumerate(items):
        segment, offsets = 2 + i, tuple(range(min(selected, length)))
        runs.append(Run(instruction, length, cached=True, segment=segment, horizon=1, selected=offsets, tile=i))
        runs.append(Run(instruction + max(history, length), glue, segment=segment, horizon=2, tile=i))
    return tuple(runs)


_SEQUENTIAL = sequential(instruction=9, history=6, items=(5, 7, 4), glue=2, task=4)
_PARALLEL = parallel(instruction=9, history=6, items=(5, 7, 4), glue=2, task=4)
_POINTWISE = pointwise(instruction=9, history=6, items=(5, 7, 4), glue=2)
_UNEVEN = pointwise(instruction=5, history=3, items=(9, 0, 2, 13), glue=1, task=3, selected=2)
_LONG = sequential(instruction=40, history=110, items=(61, 67, 64, 5, 70, 66), glue=3, task=17, selected=4)
_LONG_PARALLEL = parallel(instruction=40, history=110, items=(61, 67, 64, 5, 170, 66), glue=3, task=17, selected=4)
_LONG_POINTWISE = pointwise(instruction=40, history=1100, items=(61, 67, 64, 5, 170, 66), glue=3, selected=4, task=160)
_GAP = (Run(0, 5, cached=True, segment=0), Run(5, 3, cached=True, segment=3), Run(8, 2, segment=1, horizon=0))

CASES = {
    case.name: case
    for case in (
        Case("all_fresh", ((Run(0, 11),),)),
        Case("one_token", ((Run(0, 1),),)),
        Case("decode", ((Run(0, 13, cached=True), Run(13, 1)),)),
        Case("full_pages", ((Run(0, 12, cached=True), Run(12, 5)),)),
        Case("one_past_a_page", ((Run(0, 13, cached=True), Run(13, 5)),)),
        Case("one_short_of_a_page", ((Run(0, 11, cached=True), Run(11, 5)),)),
        Case("pages_of_one_token", ((Run(0, 5, cached=True), Run(5, 3)),), page_tokens=1),
        Case("padded", (_SEQUENTIAL,), pad_tokens=5, pad_pages=3),
        Case("unused_pages_only", ((Run(0, 6),),), pad_pages=3),
        Case("ragged_batch", (_SEQUENTIAL, (Run(0, 3),), (Run(0, 10, cached=True), Run(10, 1)), ())),
        Case("middle_missing", ((Run(0, 6, cached=True), Run(6, 4), Run(10, 7, cached=True), Run(17, 3)),)),
        Case("fresh_before_cached", ((Run(0, 6), Run(6, 9, cached=True)), _SEQUENTIAL)),
        Case("selected_scattered", ((Run(0, 14, cached=True, selected=(0, 3, 4, 9, 13)), Run(14, 2)),)),
        Case("selected_all", ((Run(0, 9, cached=True, selected=tuple(range(9))), Run(9, 2)),)),
        Case("hidden_pages", (_GAP, (Run(4, 6, cached=True), Run(0, 3, segment=1, horizon=1)))),
        Case("sequential", (_SEQUENTIAL,)),
        Case("parallel", (_PARALLEL,)),
        Case("parallel_batch", (_PARALLEL, parallel(3, 12, (2, 20), 1, 5, selected=2)), pad_tokens=2),
        Case("multi_head", (_SEQUENTIAL,), num_heads=3, num_kv_heads=3),
        Case("multi_query", (_PARALLEL,), num_heads=3, num_kv_heads=1),
        Case("grouped_query", (_SEQUENTIAL, _PARALLEL), num_heads=6, num_kv_heads=2, head_dim=4),
        Case("window", (_SEQUENTIAL, (Run(0, 21),)), window=7),
        Case("window_of_one", (_SEQUENTIAL,), window=1),
        Case("window_parallel", (_PARALLEL,), window=9),
        Case("rope_factor", (_SEQUENTIAL,), rope_factor=1.3, rope_theta=500.0),
        Case("several_query_blocks", (_LONG, (Run(0, 70),)), page_tokens=16),
        Case("several_query_blocks_parallel", (_LONG_PARALLEL,), page_tokens=16),
        Case("long_window", (_LONG,), page_tokens=16, window=100),
        Case("over_512_fresh", ((Run(0, 5, cached=True), Run(5, 530)),), num_heads=2, num_kv_heads=1),
        Case("many_cached", ((Run(0, 1300, cached=True, selected=(511, 512, 1056)), Run(1300, 3)),), page_tokens=16),
        Case("many_cached_and_fresh", ((Run(0, 1100, cached=True), Run(1100, 210)), _LONG), page_tokens=16),
        Case("exactly_512_keys", ((Run(0, 508, cached=True), Run(508, 4)),)),
        Case("exactly_64_fresh", ((Run(0, 64),),)),
        Case("bfloat16", (_SEQUENTIAL, _PARALLEL), dtype="bfloat16", pad_tokens=1, pad_pages=1),
        Case("at_home", (_SEQUENTIAL,), moved=False, pad_pages=1),
        Case("tiles", (_POINTWISE,), tiles=(3, 2, 2)),
        Case("tiles_at_home", (_POINTWISE, _UNEVEN), tiles=(4, 3, 4), moved=False, pad_tokens=2, pad_pages=1),
        Case("tiles_with_room", (_POINTWISE, _UNEVEN, (), (Run(0, 4),)), tiles=(6, 5, 5), pad_tokens=2),
        Case("tiles_overflow", (_UNEVEN, _POINTWISE), tiles=(2, 3, 1), num_heads=6),
        Case(
            "tiles_of_one_token",
            (pointwise(9, 6, (5, 7, 4), glue=1),) * 2,
            tiles=(3, 1, 2),
            num_heads=3,
            num_kv_heads=1,
        ),
        Case("tiles_only", ((Run(0, 6, cached=True, tile=0), Run(6, 3, tile=0)),), tiles=(1, 3, 2)),
        Case("tiles_window", (_POINTWISE, _UNEVEN), tiles=(4, 3, 4), window=9, pad_tokens=1),
        Case("tiles_multi_head", (_UNEVEN,), tiles=(4, 3, 4), num_heads=3, num_kv_heads=3, rope_factor=1.3),
        Case("tiles_long", (_LONG_POINTWISE, _POINTWISE), tiles=(6, 7, 11), page_tokens=16, num_heads=2),
        Case("tiles_bfloat16", (_POINTWISE, _UNEVEN), tiles=(4, 3, 4), dtype="bfloat16", pad_tokens=1, pad_pages=1),
        Case("tiles_bfloat16_pages", (_UNEVEN,), tiles=(4, 3, 3), kv_dtype="bfloat16"),
        Case("bfloat16_long", (_LONG,), dtype="bfloat16", page_tokens=16),
        Case("bfloat16_pages", (_SEQUENTIAL, _PARALLEL), kv_dtype="bfloat16", pad_tokens=1, pad_pages=1),
        Case("int8_pages", (_SEQUENTIAL, _PARALLEL), kv_dtype="int8", pad_tokens=1, pad_pages=1),
        Case("int8_pages_at_home", (_PARALLEL,), kv_dtype="int8", moved=False, pad_pages=1),
        Case("fp8_pages", (_SEQUENTIAL, _PARALLEL), kv_dtype="float8_e4m3fn", pad_tokens=1, pad_pages=1),
        Case("tiles_int8_pages", (_POINTWISE, _UNEVEN), tiles=(4, 3, 3), kv_dtype="int8", pad_tokens=1, pad_pages=1),
        Case("tiles_fp8_pages", (_UNEVEN,), tiles=(4, 3, 4), kv_dtype="float8_e4m3fn", dtype="bfloat16", pad_pages=1),
        Case("int8_long", (_LONG,), kv_dtype="int8", dtype="bfloat16", page_tokens=16),
        Case("float32_pages", (_SEQUENTIAL, _PARALLEL), dtype="bfloat16", kv_dtype="float32", pad_pages=1),
    )
}

_SERVED = Case("", (), num_heads=9, num_kv_heads=3, head_dim=64, page_tokens=16)  # SmolLM2-135M
_TILED = replace(_SERVED, tiles=(20, 1, 6), moved=False)
_ITEMS = (73, 81, 66, 90, 58) * 4

# What a server runs: a prompt of about 2,000 tokens with 20 candidates.
SERVING_CASES = {
    case.name: case
    for case in (
        replace(_SERVED, name="full_recompute", rows=((Run(0, 2048),),)),
        replace(_SERVED, name="prefix_cached", rows=((Run(0, 400, cached=True), Run(400, 1648)),), moved=False),
        replace(_SERVED, name="blocks_cached", rows=(sequential(200, 200, _ITEMS, 4, 24, selected=4),)),
        replace(_SERVED, name="blocks_cached_parallel", rows=(parallel(200, 200, _ITEMS, 4, 24),), moved=False),
        replace(_SERVED, name="batch_of_four", rows=(parallel(200, 200, _ITEMS, 4, 24),) * 4, moved=False),
        replace(_TILED, name="blocks_cached_tiles", rows=(pointwise(200, 240, _ITEMS, 1),)),
        replace(_TILED, name="batch_of_four_tiles", rows=(pointwise(200, 240, _ITEMS, 1),) * 4),
    )
}
