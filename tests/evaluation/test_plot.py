"""The Pareto front by hand, and a plot that is drawn in full."""

import builtins
import itertools
import math
from dataclasses import replace

import pytest

from rcjax.evaluation.plot import check_plot, pareto_front, write_plot
from rcjax.evaluation.ranking import METRICS, Rank
from rcjax.evaluation.summary import ArmSummary, Estimate, TokenShares


def arm(fresh: float, ndcg: float, reference: str | None = "full") -> ArmSummary:
    metrics = dict.fromkeys(METRICS, Estimate(ndcg, ndcg - 0.02, ndcg + 0.02))
    differences = dict.fromkeys(METRICS, Estimate(ndcg - 0.4, ndcg - 0.41, ndcg - 0.39)) if reference else None
    tokens = TokenShares(fresh=fresh, probed=0.0, selected=0.0, built=0.0, semantic=0.0)
    return ArmSummary(reference, 0, metrics, differences, None, tokens, {"p50": 1.0}, None, (Rank(1, 1),))


ARMS = {
    "full": arm(1.0, 0.40, None),
    "cheap": arm(0.03, 0.30),
    "middle": arm(0.10, 0.35),
    "beaten": arm(0.12, 0.34),
    "twin": arm(0.10, 0.35),
    "dear": arm(0.30, 0.40),
}


def test_the_front_has_what_nothing_beats_from_cheap_to_dear() -> None:
    assert pareto_front(ARMS) == ["cheap", "middle", "twin", "dear"]


def test_the_front_does_not_depend_on_the_order_of_the_arms() -> None:
    few = {name: ARMS[name] for name in ("full", "cheap", "beaten", "dear")}
    for names in itertools.permutations(few):
        assert pareto_front({name: few[name] for name in names}) == ["cheap", "beaten", "dear"]


def test_every_arm_and_line_is_in_the_legend(tmp_path) -> None:
    pytest.importorskip("matplotlib")
    path = tmp_path / "front.svg"
    import matplotlib

    with matplotlib.rc_context({"svg.fonttype": "none"}):
        write_plot(path, ARMS, {"chance": 0.227, "word overlap": 0.425}, "a model, n = 5")
    text = path.read_text()
    assert all(f"{name} {arm.metrics['ndcg_at_10'].value:.3f}" in text for name, arm in ARMS.items())
    assert "chance 0.227" in text
    assert "word overlap 0.425" in text
    assert "a model, n = 5" in text


def test_a_plot_without_compared_arms_is_a_plot_too(tmp_path) -> None:
    pytest.importorskip("matplotlib")
    path = tmp_path / "one.png"
    write_plot(path, {"full": replace(ARMS["full"])}, {"chance": math.log(1.25)}, "")
    assert path.stat().st_size > 1000


def test_what_is_missing_is_said(tmp_path, monkeypatch) -> None:
    with pytest.raises(ValueError, match=r"must end in one of \.png, \.svg, \.pdf"):
        check_plot(tmp_path / "plot.jpeg")
    real_import = builtins.__import__

    def without_matplotlib(name, *args, **kwargs):
        if name == "matplotlib":
            raise ImportError(name)
        return real_import(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", without_matplotlib)
    with pytest.raises(ValueError, match=r"install rcjax\[plot\]"):
        check_plot(tmp_path / "plot.png")
