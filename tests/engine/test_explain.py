"""What `explain` says of a request, against what serving it does: tokens, masks, scores, slices. It only looks."""

from collections.abc import Iterator

import numpy as np
import probing as probing_kit
import pytest
from dense_oracle import causal_kv, dense
from lending import DONOR_EVENTS, EVENTS, IDS, ITEMS, LENT, lending_settings
from tiny_engine import ARMS, TinyEngine, assert_idle, close_to, compiled_parts, event, item, recommend, restarted
from tiny_folder import folder_settings
from tiny_model import tiny_model

import rcjax
from rcjax.catalog.types import Catalogue, User
from rcjax.config import ArmSettings, MeshSettings, SchedulerSettings, ShapeSettings
from rcjax.engine.assembly import Row
from rcjax.kernels.selective_attention.layout import joined_pages
from rcjax.kernels.selective_attention.visibility import all_keys, visible
from rcjax.prompt import BlockKind, Layout, Reuse, Scoring
from rcjax.request import RecommendRequest
from rcjax.serving.explanation import Explanation

SHOP = [item(i, num_words=1 + i % 4) for i in range(5)]
NEW = item(9)
CANDIDATES = (*(one.item_id for one in SHOP), NEW)
BOUGHT = (event(0), event(1))
LOOKED_AT = ("cached", "selected", "fresh")


def ask(arm: str, candidates: tuple = CANDIDATES, **fields: object) -> RecommendRequest:
    return RecommendRequest(candidates, "u", arm=arm, **fields)


def counts(tokens: object) -> dict[str, int]:
    return {name: getattr(tokens, name) for name in LOOKED_AT}


@pytest.fixture
def stocked(engine: TinyEngine) -> TinyEngine:
    engine.put_items(SHOP)
    engine.put_user(User("u", BOUGHT))
    return engine


# ---- tokens


@pytest.mark.parametrize("arm", ARMS)
def test_tokens_are_those_of_the_answer(stocked: TinyEngine, arm: str) -> None:
    explanation = stocked.explain(ask(arm))
    answer = recommend(stocked, CANDIDATES, arm=arm)
    assert counts(explanation.tokens) == counts(answer.tokens)
    missed = sum(len(block) for block in explanation.blocks if block.source == "miss")
    assert missed == answer.tokens.built
    assert explanation.num_to_select == 0
    assert all(block.num_cached + block.num_selected + block.num_fresh == len(block) for block in explanation.blocks)


@pytest.mark.parametrize("arm", probing_kit.POLICIES)
def test_a_probe_is_left_to_the_request_and_how_many_it_selects_is_known(probing: tuple, arm: str) -> None:
    engine = restarted(*probing)
    probing_kit.know(engine)
    engine.choose_orders()
    rows: list[Row] = []
    add = engine.worker._loop.tokens.add
    engine.worker._loop.tokens.add = lambda row, claim, unmatched: (rows.append(row), add(row, claim, unmatched))
    explanation = engine.explain(ask(arm, probing_kit.IDS))
    answer = recommend(engine, probing_kit.IDS, arm=arm)
    assert counts(explanation.tokens) == counts(answer.tokens)
    is_probed = answer.tokens.probed > 0
    assert is_probed == (explanation.num_to_select > 0) or arm.startswith("no_")
    if not is_probed:  # then it is known which ones, too
        served = {index: source.selected.tolist() for index, source in rows[0].sources.items()}
        explained = {i: np.flatnonzero(explanation.blocks[i].is_selected).tolist() for i in served}
        assert explained == served
    assert ("when the request runs" in " ".join(str(explanation).split())) == (explanation.num_to_select > 0)


@pytest.fixture(scope="module")
def lending(tmp_path_factory: pytest.TempPathFactory) -> tuple:
    settings = lending_settings(tmp_path_factory.mktemp("explained"))
    return compiled_parts(settings), settings


@pytest.mark.parametrize("arm", [name for name in LENT if name.split("_", 1)[1] in ("none", "all", "boundary")])
@pytest.mark.parametrize("is_cached", [False, True])
def test_a_borrowed_history_is_told(lending: tuple, arm: str, is_cached: bool) -> None:
    engine = restarted(*lending)
    engine.put_items(ITEMS)
    engine.put_user(User("donor", DONOR_EVENTS))
    engine.build_semantic_pool()
    if is_cached:
        engine.put_user(User("u", EVENTS))
    request = RecommendRequest(IDS, "u", history=EVENTS, arm=arm)
    explanation = engine.explain(request)
    (answer,) = engine.recommend([request])
    assert counts(explanation.tokens) == counts(answer.tokens)
    assert explanation.tokens.semantic == answer.tokens.semantic
    history = next(block for block in explanation.blocks if block.kind is BlockKind.HISTORY)
    assert (history.source == "hit") == is_cached
    assert (history.num_borrowed > 0) == (answer.tokens.semantic > 0)


# ---- who sees whom


def served_rows(engine: TinyEngine, monkeypatch: pytest.MonkeyPatch, request: RecommendRequest) -> dict:
    """What each token that the request's pass computes sees in the operator's mask, by (segment, position)."""
    batches: list = []
    rank = engine.executor.rank
    monkeypatch.setattr(engine.executor, "rank", lambda batch, shape: (batches.append(batch), rank(batch, shape))[1])
    engine.recommend([request])
    (batch,) = batches
    keys = all_keys(batch.tokens, joined_pages(batch.pages, batch.tiles))
    seen = np.asarray(visible(batch.tokens, keys, None))[0]
    of_keys = list(zip(np.asarray(keys.segment)[0].tolist(), np.asarray(keys.pos)[0].tolist(), strict=True))
    queries = zip(np.asarray(batch.tokens.segment)[0].tolist(), np.asarray(batch.tokens.pos)[0].tolist(), strict=True)
    return {query: {of_keys[n] for n in np.flatnonzero(seen[t])} for t, query in enumerate(queries) if query[1] >= 0}


def places(explanation: Explanation) -> list[tuple[int, int]]:
    return [(block.segment, int(pos)) for block in explanation.blocks for pos in block.positions]


@pytest.mark.parametrize("arm", ARMS)
def test_what_is_computed_sees_what_the_operator_lets_it_see(
    stocked: TinyEngine, monkeypatch: pytest.MonkeyPatch, arm: str
) -> None:
    explanation = stocked.explain(ask(arm))
    served = served_rows(stocked, monkeypatch, ask(arm))
    at, seen = places(explanation), explanation.visible()
    is_cached = np.concatenate([block.is_cached for block in explanation.blocks])
    assert {at[t] for t in np.flatnonzero(~is_cached)} == set(served)
    for t in np.flatnonzero(~is_cached):
        assert {at[n] for n in np.flatnonzero(seen[t])} == served[at[t]]


@pytest.mark.parametrize("arm", [name for name, arm in ARMS.items() if arm.reuse is Reuse.BLOCKS])
def test_what_is_cached_saw_the_instruction_and_its_own_block(stocked: TinyEngine, arm: str) -> None:
    explanation = stocked.explain(ask(arm))
    seen, instruction = explanation.visible(), len(explanation.blocks[0])
    for start, block in zip(explanation.starts, explanation.blocks, strict=True):
        for offset in np.flatnonzero(block.is_cached):
            own = set(range(start, start + offset + 1))
            expected = own if block.kind is BlockKind.INSTRUCTION else own | set(range(instruction))
            assert set(np.flatnonzero(seen[start + offset])) == expected


@pytest.mark.parametrize(
    "arm",
    [n for n, arm in ARMS.items() if arm.layout is Layout.PARALLEL or arm.reuse is not Reuse.BLOCKS or "selected" in n],
)
def test_a_masked_forward_by_it_gives_the_scores(stocked: TinyEngine, arm: str) -> None:
    """Where every cached token is exact: the tokens at their positions, under the mask, are all that a score needs."""
    explanation = stocked.explain(ask(arm))
    model = tiny_model()
    ids = np.concatenate([block.token_ids for block in explanation.blocks])
    positions = np.concatenate([block.positions for block in explanation.blocks])
    logits, *_ = dense(model.params, model.config, ids, positions, explanation.visible())
    ends = explanation.starts + [len(block) for block in explanation.blocks]
    read = logits[ends[list(explanation.readouts)] - 1]
    builder = stocked.builder
    if ARMS[arm].scoring is Scoring.ANCHOR:
        scores = read[:, builder.yes_id] - read[:, builder.no_id]
    else:
        chosen = read[0][builder.label_ids[: len(CANDIDATES)]]
        scores = chosen - np.log(np.exp(chosen).sum())
    names = [one if isinstance(one, str) else one.item_id for one in CANDIDATES]
    answer = {ranked.item_id: ranked.score for ranked in recommend(stocked, CANDIDATES, arm=arm).ranking}
    assert answer == close_to(dict(zip(names, scores.tolist(), strict=True)))


def test_a_cached_item_under_its_mask_has_the_kv_of_being_read_alone(stocked: TinyEngine, oracle) -> None:
    """In the sequential layout too, where its place in the prompt would let it see more."""
    explanation = stocked.explain(ask("sequential_label_blocks"))
    model = tiny_model()
    ids = np.concatenate([block.token_ids for block in explanation.blocks])
    home = np.concatenate([block.home + np.arange(len(block)) for block in explanation.blocks])
    _, k, v, _ = dense(model.params, model.config, ids, home, explanation.visible())
    for start, block in zip(explanation.starts, explanation.blocks, strict=True):
        if block.kind is BlockKind.ITEM:
            expected = causal_kv(model, oracle.instruction, block.token_ids)
            for found, alone in zip((k, v), expected, strict=True):
                np.testing.assert_allclose(found[:, start : start + len(block)], alone, atol=1e-9)


def test_a_window_hides_what_is_far(stocked: TinyEngine) -> None:
    explanation = stocked.explain(ask("sequential_label_blocks"))
    narrow = Explanation(**{**vars(explanation), "window": 4})
    seen, whole = narrow.visible(), explanation.visible()
    for t, (row, unbound) in enumerate(zip(seen, whole, strict=True)):
        assert not (row & ~unbound).any()
        assert row.sum() == min(4, unbound.sum()), t


# ---- it only looks


def test_nothing_is_changed_counted_or_compiled(stocked: TinyEngine) -> None:
    def state() -> tuple:
        directory = stocked.directory
        listed = [(block.key, block.last_use) for block in directory.list_slots(0, 100)]
        return listed, directory.stats(), stocked.stats(), stocked.cache.num_computed, stocked.router._dispatcher.work()

    (before,) = stocked.call_workers(lambda worker: state())
    for arm in ARMS:
        explanation = stocked.explain(ask(arm, (*CANDIDATES, item(77))))
        explanation.visible()
        str(explanation), explanation._repr_html_()
    (after,) = stocked.call_workers(lambda worker: state())
    assert after == before
    assert stocked.library.versions._reads == {}
    assert_idle(stocked)


def test_no_program_is_compiled(tmp_path) -> None:
    arms = {
        "sequential": ArmSettings(selection="deviation(r=0.3)"),
        "parallel": ArmSettings(layout=Layout.PARALLEL, scoring=Scoring.ANCHOR),
    }
    shapes = ShapeSettings(rank=((256, 0), (256, 64)), build=((128, 8),))
    settings = folder_settings(tmp_path, arms=arms, default_arm="parallel", shapes=shapes)
    shop = Catalogue({one.item_id: one for one in SHOP}, {"u": User("u", BOUGHT)})
    with rcjax.load(config=settings, catalogue=shop, progress=False) as engine:
        for arm in arms:
            explanation = engine.explain(ask(arm))
            assert explanation.visible().any()
            str(explanation), explanation._repr_html_()
        assert engine.stats().num_compilations == 0


# ---- slices


@pytest.fixture
def mesh(tmp_path) -> Iterator[rcjax.LocalEngine]:
    shapes = ShapeSettings(rank=((256, 64),), build=((128, 8),))
    settings = folder_settings(
        tmp_path,
        arms={"one": ArmSettings()},
        default_arm="one",
        shapes=shapes,
        mesh=MeshSettings(slices=2, scheduler=SchedulerSettings(policy="round_robin")),
    )
    shop = Catalogue({one.item_id: one for one in SHOP}, {"u": User("u", BOUGHT)})
    with rcjax.load(config=settings, catalogue=shop, progress=False) as engine:
        yield engine


def test_the_slice_is_the_one_that_answers_and_blocks_are_where_they_are_held(mesh: rcjax.LocalEngine) -> None:
    for _ in range(3):
        explanation = mesh.explain(ask("one"))
        assert mesh.explain(ask("one")).slice_index == explanation.slice_index
        for index in range(2):
            for block in explanation.blocks:
                if block.kind is BlockKind.ITEM and index in block.held_by:
                    assert block.owner in mesh.call_workers(held_items)[index]
        hits = {block.owner: block.is_hit for block in explanation.blocks if block.kind is BlockKind.ITEM}
        assert {o for o, hit in hits.items() if hit} == mesh.call_workers(held_items)[explanation.slice_index] & set(
            hits
        )
        (answer,) = mesh.recommend([ask("one")])
        assert answer.slice_index == explanation.slice_index


def held_items(worker) -> set[str]:
    blocks = worker.cache.directory.ready_blocks()
    return {block.owner.id for block in blocks if block.kind == BlockKind.ITEM}
