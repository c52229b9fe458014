"""When `serve` says that nobody has measured what the default arm's approximation costs."""

import pytest

from rcjax.config import ArmSettings, Settings
from rcjax.model.adapter_origin import FILE, AdapterOrigin
from rcjax.prompt import Layout, Reuse, Scoring
from rcjax.serving.fidelity_note import fidelity_note


def settings(**arm) -> Settings:
    return Settings(arms={"mine": ArmSettings(**arm)}, default_arm="mine", adapter=None)


def adapter(folder, layout: Layout) -> str:
    origin = AdapterOrigin("shop v1", "", layout, Scoring.ANCHOR, base="", num_layers=1)
    (folder / FILE).write_text(origin.to_json(), "utf-8")
    return str(folder)


def test_cached_items_in_the_sequential_layout_are_an_approximation_that_nobody_measured():
    note = fidelity_note(settings(selection="boundary(first=4)"))
    assert "default_arm 'mine'" in note
    assert "not measured: `rcjax eval --arms mine --gate 0.005`" in note
    assert "\n" not in note


@pytest.mark.parametrize(
    "exact",
    [{"reuse": Reuse.PREFIX}, {"reuse": Reuse.NONE}, {"selection": "full"}, {"layout": Layout.PARALLEL}],
    ids=["prefix", "full recompute", "all selected", "parallel"],
)
def test_what_is_exact_needs_no_measurement(exact):
    assert fidelity_note(settings(**exact)) is None


def test_an_adapter_says_what_it_was_trained_for(tmp_path):
    with_adapter = settings().model_copy(update={"adapter": adapter(tmp_path, Layout.PARALLEL)})
    assert "was trained for layout parallel" in fidelity_note(with_adapter)
    adapter(tmp_path, Layout.SEQUENTIAL)
    assert fidelity_note(with_adapter) is None
    (tmp_path / FILE).unlink()
    note = fidelity_note(with_adapter)
    assert "not measured" in note
    assert "trained" not in note
