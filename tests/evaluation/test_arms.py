"""Each arm is compared with full recompute of the same prompt."""

import pytest

from rcjax.config import ArmSettings, Settings
from rcjax.evaluation.arms import compared_arms
from rcjax.prompt import Layout, Reuse, Scoring

PARALLEL = ArmSettings(layout=Layout.PARALLEL, scoring=Scoring.ANCHOR)


def test_all_arms_with_their_references_first() -> None:
    arms, references = compared_arms(Settings())
    assert list(arms) == ["full", "full/parallel/anchor", "prefix", "rcjax", "parallel"]
    assert references == {
        "full": None,
        "full/parallel/anchor": None,
        "prefix": "full",
        "rcjax": "full",
        "parallel": "full/parallel/anchor",
    }
    added = arms["full/parallel/anchor"]
    assert (added.layout, added.scoring, added.reuse) == (Layout.PARALLEL, Scoring.ANCHOR, Reuse.NONE)
    assert all(arms[name] == Settings().arms[name] for name in Settings().arms)


def test_a_named_arm_brings_its_reference() -> None:
    arms, references = compared_arms(Settings(), ["rcjax"])
    assert list(arms) == ["full", "rcjax"]
    assert references == {"full": None, "rcjax": "full"}


def test_the_settings_own_reference_is_taken_by_what_it_is_not_by_its_name() -> None:
    arms = {"fast": PARALLEL, "slow": PARALLEL.model_copy(update={"reuse": Reuse.NONE}), "other": ArmSettings()}
    settings = Settings(arms=arms, default_arm="fast")
    found, references = compared_arms(settings, ["fast", "other"])
    assert references == {"slow": None, "fast": "slow", "full/sequential/label": None, "other": "full/sequential/label"}
    assert set(found) == set(references)


def test_full_recompute_of_another_scoring_is_no_reference() -> None:
    arms = {"full": ArmSettings(reuse=Reuse.NONE), "anchored": ArmSettings(scoring=Scoring.ANCHOR)}
    _, references = compared_arms(Settings(arms=arms, default_arm="full"))
    assert references == {"full": None, "full/sequential/anchor": None, "anchored": "full/sequential/anchor"}


def test_an_unknown_arm_is_named() -> None:
    with pytest.raises(ValueError, match="arm 'fulll' is not one of the settings' arms: rcjax, parallel, prefix, full"):
        compared_arms(Settings(), ["full", "fulll"])
