"""What start-up makes of shapes, and says of a template: whether closing an item costs more than a token."""

import logging

import pytest
from tiny_engine import PAGE_TOKENS, TILED, tiny_model, tiny_settings

from rcjax.config import ArmSettings, ShapeSettings
from rcjax.engine.cost import CostModel
from rcjax.engine.shape import Shape
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
