"""What start-up makes of shapes and of `dtype`, and says of a template: whether closing an item costs over a token."""

import logging
from dataclasses import replace

import jax
import pytest
from tiny_engine import PAGE_TOKENS, TILED, recommend, tiny_model, tiny_settings

from rcjax.catalog import Item
from rcjax.config import ArmSettings, Settings, ShapeSettings
from rcjax.engine.cost import CostModel
from rcjax.engine.shape import Shape
from rcjax.model.dtype import AutoDtype
from rcjax.model.export import export_folder
from rcjax.model.spec import load_model
from rcjax.prompt import Layout, PromptBuilder, Scoring
from rcjax.prompt.template import load_template
from rcjax.serving.slices import shapes_of
from rcjax.serving.startup import closing_note, start_engine

ARMS = {
    "fast": ArmSettings(layout=Layout.PARALLEL, scoring=Scoring.ANCHOR),
    "labels": ArmSettings(layout=Layout.PARALLEL),
    "causal": ArmSettings(scoring=Scoring.ANCHOR),
}
OF_ONE_TOKEN = TILED.model_copy(update={"tile_tokens": 1})


def test_what_is_built_or_has_tiles_turns_no_keys():
    settings = ShapeSettings(rank=((64, 64), TILED), build=((96, 16, 2),), generate=((1, 64),))
    cost = CostModel(tiny_model().config, PAGE_TOKENS, page_bytes=1000)
    tiled = Shape(64, 32, 8, tiles=8, tile_tokens=6, tile_pages=4, at_home=True)
    assert set(shapes_of("rank", settings, cost)) == {Shape(64, 64), tiled}
    assert list(shapes_of("build", settings, cost)) == [Shape(96, 16, 2, at_home=True)]
    assert list(shapes_of("generate", settings, cost)) == [Shape(1, 64)]


def settings_of(folder, closing, arms=ARMS, rank=((64, 64),)):
    found = tiny_settings(
        folder, arms=arms, default_arm=next(iter(arms)), shapes=ShapeSettings(rank=rank, build=((96, 16),))
    )
    path = folder / "tiny.yaml"
    text = path.read_text().replace('parallel: {after_item: "\\nBuy:"}', f'parallel: {{after_item: "{closing}"}}')
    assert f'"{closing}"' in text
    path.write_text(text)
    return found


def note_of(settings):
    template = load_template(settings.template)
    return closing_note(settings, PromptBuilder(template, tiny_model().tokenizer, settings.limits.max_candidates))


def test_a_closing_glue_of_several_tokens_is_told_with_the_arms_that_pay_for_it(tmp_path):
    note = note_of(settings_of(tmp_path, "\\nBuy:"))
    assert note.startswith("template 'tiny': anchor.parallel.after_item is 5 tokens")
    assert "in fast;" in note


def test_it_is_told_where_no_tile_takes_it(tmp_path):
    """`TILED` has tiles of six tokens."""
    assert "tile" not in note_of(settings_of(tmp_path, "\\nBuy:", rank=(TILED, OF_ONE_TOKEN)))
    note = note_of(settings_of(tmp_path, "\\nBuy:", rank=((64, 64), OF_ONE_TOKEN)))
    assert "no tile of shapes.rank takes more than 1, so tiles are not used" in note


@pytest.mark.parametrize(("closing", "arms"), [("?", ARMS), ("\\nBuy:", {"labels": ARMS["labels"]})])
def test_nothing_is_told_of_one_token_or_where_no_arm_reads_it(tmp_path, closing, arms):
    assert note_of(settings_of(tmp_path, closing, arms)) is None


@pytest.mark.parametrize("closing", ["?", "\\nBuy:"])
def test_start_up_warns(tmp_path, caplog, closing):
    settings = settings_of(tmp_path, closing, {"fast": ARMS["fast"]})
    with caplog.at_level(logging.WARNING, "rcjax"), start_engine(settings, model=tiny_model()):
        pass
    expected = [] if closing == "?" else [note_of(settings)]
    assert [record.getMessage() for record in caplog.records] == expected


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    """The tiny model without biases, which no family has together with its norms of queries and keys."""
    model, folder = tiny_model(), tmp_path_factory.mktemp("tiny")
    layers = {name: x for name, x in model.params["layers"].items() if not name.endswith("bias")}
    export_folder(folder, replace(model.config, qkv_bias=False), {**model.params, "layers": layers}, model.tokenizer)
    return str(folder)


def of_dtype(folder, dtype, checkpoint):
    return settings_of(folder, "?", {"fast": ARMS["fast"]}).model_copy(update={"dtype": dtype, "model": checkpoint})


def dtypes(engine):
    """Of the pool, and what Info says of the weights."""
    (of_pool,) = engine.call_workers(lambda worker: worker.cache.executor.pages.k.dtype.name)
    return of_pool, engine.info().dtype


def test_the_default_is_auto_which_is_what_this_machine_is_fast_in(tmp_path, caplog, checkpoint):
    settings = of_dtype(tmp_path, Settings().dtype, checkpoint)
    with caplog.at_level(logging.INFO, "rcjax"), start_engine(settings) as engine:
        info = engine.info()
        chosen = load_model(checkpoint, dtype=info.dtype)
        assert dtypes(engine) == (info.dtype,) * 2
        assert len(recommend(engine, [Item("a", "mug"), Item("b", "pan")], "", "fast", history=()).ranking) == 2
    assert info.dtype in ("float32", "bfloat16")
    assert info.dtype_reason.startswith("auto: ")
    assert info.fingerprint == chosen.fingerprint
    if jax.__version_info__ < (0, 12):
        assert info.dtype == "float32"
    (line,) = [record.getMessage() for record in caplog.records if "weights" in record.getMessage()]
    assert f"{info.dtype} ({info.dtype_reason})" in line


def test_what_is_chosen_is_that_of_weights_pool_and_info(tmp_path, checkpoint):
    model = load_model(checkpoint, dtype=AutoDtype("gpu"))
    with start_engine(of_dtype(tmp_path, "auto", checkpoint), model=model) as engine:
        assert dtypes(engine) == ("bfloat16",) * 2
        assert engine.info().dtype_reason == model.dtype_reason


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_a_dtype_that_is_set_is_kept(tmp_path, monkeypatch, checkpoint, dtype):
    monkeypatch.setattr(AutoDtype, "choose", lambda self, config: pytest.fail("it is not to be chosen"))
    with start_engine(of_dtype(tmp_path, dtype, checkpoint)) as engine:
        assert dtypes(engine) == (dtype,) * 2
        assert engine.info().dtype_reason == "as set"
