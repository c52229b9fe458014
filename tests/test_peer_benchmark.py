"""The comparison with vLLM (benchmarks/peer_vllm.py), without vLLM and without a model."""

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"
sys.path.insert(0, str(BENCHMARKS))

import peer_report  # noqa: E402
import peer_venv  # noqa: E402
import peer_vllm  # noqa: E402
from engine_process import EngineProcess, EngineProcessError  # noqa: E402

TOKENS = {"cached": 3, "selected": 1, "fresh": 2, "prompt_len": 6}
CHILD = """
import sys
sys.path.insert(0, {folder!r})
from engine_process import answer_tasks

def fail():
    raise ValueError("no such luck")

def start():
    print("noise before")
    {start}
    return {{"add": lambda a, b: print("noise") or a + b, "fail": fail, "end": lambda: sys.exit(3)}}

answer_tasks(start)
"""


def own_round(full: float, rcjax: float, parallel: float) -> dict[str, Any]:
    alone = {"full": full, "rcjax": rcjax, "parallel": parallel}
    return {
        "alone": {arm: [{"ttft_ms": ms, "pass_ms": ms - 1, **TOKENS}] for arm, ms in alone.items()},
        "load": {arm: {"wall_s": 0.5, "latencies_ms": [10.0, 20.0, 30.0]} for arm in ("rcjax", "parallel")},
    }


def peer_round(cold: float, warm: float) -> dict[str, Any]:
    row = {"cold_ms": cold, "warm_ms": warm, "cached": 2, "prompt_len": 6}
    return {"alone": [row], "load": {"wall_s": 4.0, "latencies_ms": [1e3, 2e3]}}


def child(tmp_path: Path, start: str = "pass") -> list[str]:
    script = tmp_path / "child.py"
    script.write_text(CHILD.format(folder=str(BENCHMARKS), start=start))
    return [sys.executable, str(script)]


def test_figures_and_claims_of_both() -> None:
    rounds = [
        {"own": own_round(100.0, 20.0, 4.0), "peer": peer_round(90.0, 70.0)},
        {"own": own_round(140.0, 24.0, 8.0), "peer": peer_round(110.0, 90.0)},
    ]
    values = peer_report.summarise(rounds)
    assert values["alone"]["full"]["p50_ms"] == 120
    assert values["alone"]["vllm"]["rounds_p50_ms"] == [70, 90]
    assert values["alone"]["vllm"]["tokens"] == {"cached": 2, "selected": 0, "fresh": 4, "prompt_len": 6}
    assert values["alone"]["vllm cold"]["tokens"]["fresh"] == 6
    assert values["load"]["parallel"]["requests_per_s"] == 6
    assert values["load"]["parallel"]["n"] == 6
    assert values["load"]["vllm"]["requests_per_s"] == 0.5
    claims = peer_report.claims_of({"float32": values, "bfloat16": values})
    found = {claim.name: (round(claim.value, 2), claim.holds) for claim in claims}
    assert found == {
        "float32: parallel, P50 TTFT, times below vLLM": (13.33, True),
        "float32: rcjax (boundary(first=4)), P50 TTFT, times below vLLM": (3.64, False),
        "float32: full, times vLLM's cold prompt": (1.2, True),
        "bfloat16: parallel, P50 TTFT, times below vLLM": (13.33, True),
        "bfloat16: rcjax (boundary(first=4)), P50 TTFT, times below vLLM": (3.64, False),
        "bfloat16: full, times vLLM's cold prompt": (1.2, True),
        "bfloat16: parallel under load, requests/s, times vLLM's": (12, False),
        "bfloat16: parallel under load, P99 over P50": (1.5, True),
    }


def test_nothing_is_claimed_about_a_peer_that_was_not_measured() -> None:
    values = peer_report.summarise([{"own": own_round(100.0, 20.0, 4.0)}])
    assert list(values["alone"]) == ["full", "rcjax", "parallel"]
    assert list(values["load"]) == ["rcjax", "parallel"]
    claims = peer_report.claims_of({"float32": values, "bfloat16": values})
    assert [claim.name for claim in claims] == ["bfloat16: parallel under load, P99 over P50"]


def test_a_missing_peer_is_said_in_one_line_and_ours_is_measured(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    class Own:
        def __enter__(self) -> "Own":
            return self

        def __exit__(self, *error: object) -> None: ...

        def ask(self, task: str, **arguments: Any) -> Any:
            own = own_round(100.0, 20.0, 4.0)
            answers = {"prompts": [{"ids": [1, 2, 3], "prefix_len": 2}], "info": {"model": "tiny"}, "warm_up": None}
            answers |= {"alone": own["alone"], "load": own["load"]["parallel"]}
            return answers[task]

    monkeypatch.setattr(peer_vllm, "own_engine", lambda dtype, args: Own())
    written, venv = tmp_path / "peer.json", tmp_path / "none"
    options = ["--venv", str(venv), "--requests", "1", "--rounds", "1", "--json", str(written)]
    monkeypatch.setattr(sys, "argv", ["peer_vllm.py", *options])
    peer_vllm.main()
    said = capsys.readouterr().out.replace("\n", "")
    assert f"vLLM was not measured, and nothing is claimed about it: there is no {venv}/bin/python" in said
    assert "times below vLLM" not in written.read_text()


def test_an_environment_without_vllm_is_named(tmp_path: Path) -> None:
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin" / "python").symlink_to(sys.executable)
    with pytest.raises(peer_venv.PeerMissingError, match="cannot import vLLM: ModuleNotFoundError"):
        peer_venv.check_import(tmp_path)


def test_a_process_answers_tasks_whatever_it_prints(tmp_path: Path) -> None:
    log = tmp_path / "log"
    with EngineProcess(child(tmp_path), log) as engine:
        assert engine.ask("add", a=1, b=2) == 3
        with pytest.raises(EngineProcessError, match=r"fail: ValueError: no such luck; the end of (.|\n)*Traceback"):
            engine.ask("fail")
        assert engine.ask("add", a=[1], b=[2]) == [1, 2]
        with pytest.raises(EngineProcessError, match="end: the process ended with code 3"):
            engine.ask("end")
        with pytest.raises(EngineProcessError, match="add: the process ended with code 3"):
            engine.ask("add", a=1, b=2)
    assert log.read_text().startswith("noise before\nnoise\n")


def test_a_process_that_does_not_start_says_why(tmp_path: Path) -> None:
    log = tmp_path / "log"
    with pytest.raises(EngineProcessError, match="Traceback") as caught:
        EngineProcess(child(tmp_path, r"raise RuntimeError('no\nmodel')"), log)
    assert caught.value.reason == f"start: RuntimeError: no model (see {log})"


def test_what_the_peers_environment_runs_needs_no_package_to_be_imported() -> None:
    """It has neither rcjax nor JAX, and imports vLLM only to start it."""
    names = "import engine_process, peer_engine, peer_model"
    code = f"import sys; sys.path.insert(0, {str(BENCHMARKS)!r}); {names}"
    subprocess.run([sys.executable, "-I", "-S", "-c", code], check=True)
