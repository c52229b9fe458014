"""What the tables say of probing arms, as they are printed."""

import pytest
from rich.console import Console

from rcjax.commands.report import Answer, arm_table, stage_line, stage_table, tokens_line
from rcjax.request import RecommendResult, StageTimes, TokenCounts


def answer(probed: int, probe_ms: float) -> Answer:
    times = StageTimes(plan_ms=1.0, build_ms=2.0, probe_ms=probe_ms, extend_ms=40.0, readout_ms=3.0, ttft_ms=100.0)
    return Answer(RecommendResult((), TokenCounts(1000, 150, 80, 0, probed), times, "arm"), caller_ms=101.5)


def printed(renderable) -> str:
    console = Console(width=200)
    with console.capture() as capture:
        console.print(renderable)
    return capture.get()


PROBING, PLAIN = answer(1230, 25.5), answer(0, 0.0)


def test_probed_tokens_are_told_where_there_are_any():
    assert tokens_line(PROBING.result).endswith("80 fresh; 1,230 probed")
    assert tokens_line(PLAIN.result) == "1,230 prompt tokens: 1,000 cached, 150 selected, 80 fresh"


@pytest.mark.parametrize(("answers", "shown"), [([PROBING], True), ([PLAIN, PROBING], True), ([PLAIN], False)])
def test_the_arm_table_has_a_column_for_them(answers, shown):
    text = printed(arm_table({"arm": answers}, [], title="title"))
    assert ("probed" in text) == shown
    assert (f"{1230 // len(answers):,}" in text) == shown


def test_borrowed_tokens_are_told_where_there_are_any():
    result = RecommendResult((), TokenCounts(1000, 150, 80, semantic=180), StageTimes(), "arm")
    assert "1,000 cached (180 from other histories), 150 selected" in tokens_line(result)
    text = printed(arm_table({"a": [PLAIN], "b": [Answer(result, 1.0)]}, [], title="title"))
    assert "semantic" in text
    assert "180" in text
    assert "semantic" not in printed(arm_table({"a": [PLAIN]}, [], title="title"))


def test_probing_is_a_stage():
    assert "probe 25.5, extend 40.0" in stage_line(PROBING)
    rows = printed(stage_table({"a": [PROBING], "b": [PLAIN]}, title="title")).splitlines()
    (row,) = [row for row in rows if "probing for tokens" in row]
    assert row.split()[-4:-1:2] == ["25.5", "0.0"]
