"""`rcjax plan`: the deployments of configs/ and deploy/ fit their chips, and what does not ends with 1 and reasons."""

import json
import re
from pathlib import Path

import pytest
import yaml
from typer.testing import CliRunner

from rcjax.commands.app import app
from rcjax.config import CacheSettings, Settings, ShapeSettings
from rcjax.model.config import ModelConfig
from rcjax.model.spec import load_config
from rcjax.serving.sizing import Traffic, chip_of, size_deployment

ROOT = Path(__file__).parents[2]
QWEN3_8B = ROOT / "configs" / "qwen3-8b"
GIB = 2**30
# By file: the options that it is planned with, and the devices that it takes.
DEPLOYMENTS = {
    "configs/embedded.yaml": ([], 1),
    "configs/mesh-4.yaml": ([], 4),
    "configs/h100-1.yaml": (["--device", "h100"], 1),
    "configs/h100-8.yaml": (["--device", "h100"], 8),
    "configs/v5e-8.yaml": (["--device", "v5e"], 8),
    "deploy/kubernetes/overlays/gpu/config.yaml": (
        ["--device", "h100", "--memory-fraction", "0.92", "--model", str(QWEN3_8B)],
        1,
    ),
    "deploy/kubernetes/overlays/tpu/config.yaml": (["--device", "v5e", "--model", str(QWEN3_8B)], 8),
}


@pytest.fixture
def plan(monkeypatch, tmp_path):
    monkeypatch.setenv("NO_COLOR", "1")
    monkeypatch.setenv("COLUMNS", "160")

    def run(file, *options):
        out = tmp_path / "plan.json"
        result = CliRunner().invoke(app, ["plan", "--config", str(file), "--json", str(out), *map(str, options)])
        return result, json.loads(out.read_text()) if out.exists() else None

    return run


def test_every_deployment_is_planned():
    """Training settings are none."""
    files = {*ROOT.glob("configs/*.yaml"), *ROOT.glob("deploy/kubernetes/overlays/*/config.yaml")}
    assert {str(file.relative_to(ROOT)) for file in files} == set(DEPLOYMENTS)


@pytest.mark.parametrize(
    "name",
    [pytest.param(n, marks=pytest.mark.embedded if n in list(DEPLOYMENTS)[:2] else []) for n in DEPLOYMENTS],
)
def test_a_deployment_fits(plan, name):
    options, num_devices = DEPLOYMENTS[name]
    result, found = (
        plan(ROOT / name, *options, "--device-bytes", "8GiB") if not options else plan(ROOT / name, *options)
    )
    assert result.exit_code == 0, result.output
    assert found["format"] == "rcjax.plan.1"
    assert (found["works"], found["refusals"], found["num_devices"]) == (True, [], num_devices)
    memory = found["memory"]
    assert memory["weights"] + memory["pool"] + memory["workspace"] <= memory["usable"]
    default = yaml.safe_load((ROOT / name).read_text()).get("default_arm", "rcjax")
    (arm,) = (arm for arm in found["arms"] if arm["name"] == default)
    assert arm["longest_candidates"] >= 1


def test_it_prints_what_fits_and_how_sure_it_is(plan):
    result, _ = plan(ROOT / "configs/h100-8.yaml", "--device", "h100", "--items", 20_000, "--users", 400)
    for said in (
        "on 8 devices (8 slices of 1 x h100): weights in bfloat16, KV in bfloat16, attention pallas_gpu",
        "weights",
        "estimated",
        "20,000 items and 400 users",
        "modelled, at best",
        "147,456",
    ):
        assert said in result.output


def test_items_of_several_slices_count_once_where_they_are_placed_and_histories_on_each(plan):
    one, eight = (plan(ROOT / f"configs/{name}.yaml", "--device", "h100")[1]["pool"] for name in ("h100-1", "h100-8"))
    # A tenth of each of the eight pools is for replicas.
    assert eight["items_alone"] == pytest.approx(8 * 0.9 * one["items_alone"], rel=0.01)
    assert eight["users_alone"] == pytest.approx(0.9 * one["users_alone"], rel=0.01)


def test_eight_slices_are_each_as_the_one(plan):
    """So that what is compiled ahead of time for one H100 holds for eight."""
    one, eight = (yaml.safe_load((ROOT / f"configs/{name}.yaml").read_text()) for name in ("h100-1", "h100-8"))
    assert eight.pop("mesh")["slices"] == 8
    assert eight["cache"].pop("host_bytes") != one["cache"].pop("host_bytes")
    assert eight == one


# As their config.json says: layers, width, heads, kv heads, head dim, width of the MLP, vocabulary.
QWEN3 = {"rope_theta": 1e6, "norm_eps": 1e-6, "max_len": 40960, "qk_norm": True}
MODELS = {
    "SmolLM2-135M": ModelConfig(30, 576, 9, 3, 64, 1536, 49152, 1e5, 1e-5, 8192, tied_embeddings=True),
    "Qwen3-0.6B": ModelConfig(28, 1024, 16, 8, 128, 3072, 151936, tied_embeddings=True, **QWEN3),
    "Qwen3-1.7B": ModelConfig(28, 2048, 16, 8, 128, 6144, 151936, tied_embeddings=True, **QWEN3),
    "Qwen3-4B": ModelConfig(36, 2560, 32, 8, 128, 9728, 151936, tied_embeddings=True, **QWEN3),
    "Qwen3-8B": ModelConfig(36, 4096, 32, 8, 128, 12288, 151936, **QWEN3),
}


def test_the_table_of_the_documentation_is_what_is_planned():
    text = (ROOT / "docs" / "operations.md").read_text()
    rows = {
        name: [
            cell.strip() for cell in re.search(rf"^\| {re.escape(name)} \| (.*) \|$", text, re.MULTILINE)[1].split("|")
        ]
        for name in MODELS
    }
    arms = {"parallel": Settings().arms["parallel"]}
    shapes = ShapeSettings(rank=Settings().shapes.rank[:1], build=Settings().shapes.build)
    for name, config in MODELS.items():
        found = []
        for kv_dtype in ("bfloat16", "int8"):
            cache = CacheSettings(pool_bytes=40 * GIB, kv_dtype=kv_dtype)
            settings = Settings(dtype="bfloat16", cache=cache, arms=arms, default_arm="parallel", shapes=shapes)
            sizing = size_deployment(settings, config, chip_of("h100", 1), Traffic(), disk_bytes_per_s=1e9)
            found.append((sizing.pool, sizing.memory.weights))
        (full, weights), (short, _) = found
        assert rows[name] == [
            f"{weights / GIB:.2f}",
            *(f"{pool.token_bytes:,.0f}" for pool in (full, short)),
            *(f"{pool.item_bytes / 2**20:.2f}" for pool in (full, short)),
            *(f"{pool.items_alone:,}" for pool in (full, short)),
        ]


def test_what_cannot_work_ends_with_1_and_a_line_for_each_reason(plan):
    result, found = plan(ROOT / "configs/h100-1.yaml", "--device", "v5e")
    assert result.exit_code == 1
    reasons = [line for line in result.output.splitlines() if line.startswith("cannot work: ")]
    assert [f"cannot work: {reason}" for reason in found["refusals"]] == reasons
    assert len(reasons) == 2
    assert "pallas_gpu" in reasons[0]
    assert "leave room for" in reasons[1]
    assert not found["works"]


def test_a_pool_too_large_for_jax_s_share_fits_a_larger_share(plan, tmp_path):
    settings = yaml.safe_load((ROOT / "configs/h100-1.yaml").read_text())
    settings |= {"model": str(QWEN3_8B), "cache": settings["cache"] | {"pool_bytes": "54GiB"}}
    file = tmp_path / "h100.yaml"
    file.write_text(yaml.safe_dump(settings))
    assert plan(file, "--device", "h100")[0].exit_code == 1
    assert plan(file, "--device", "h100", "--memory-fraction", 0.92)[0].exit_code == 0
    assert plan(file, "--device", "h100", "--device-bytes", "110GiB")[0].exit_code == 0


def test_timed_passes_say_how_long_it_takes_to_build(plan, tmp_path):
    costs = tmp_path / "costs.json"
    passes = [
        {"fresh_tokens": tokens, "read_tokens": 0, "pairs": 256 * tokens, "seconds": 0.1 + tokens / 10_000}
        for tokens in (512, 1024, 4096)
    ]
    fields = {"format": "rcjax.costs.1", "source": "this bench", "token_bytes": 147_456, "passes": passes}
    costs.write_text(json.dumps(fields))
    options = ["--device", "h100", "--items", 10_000, "--item-tokens", 100, "--costs", costs]
    result, found = plan(ROOT / "configs/h100-1.yaml", *options)
    assert found["seconds"]["num_tokens"] == 1_000_000
    assert found["seconds"]["build_s"] == pytest.approx(1_000_000 / 4096 * (0.1 + 4096 / 10_000), rel=0.01)
    assert "timed: this bench" in result.output


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--device", "b200"], "device 'b200' is not known; use one of h100, "),
        (["--device-bytes", "much"], "--device-bytes='much' is no size"),
        (["--disk-rate", "0"], "--disk-rate='0' must be at least one byte"),
        (["--model", "no/such-folder/here"], "is no existing folder"),
    ],
)
def test_wrong_options_end_with_1_and_a_line(plan, options, said):
    result, found = plan(ROOT / "configs/h100-1.yaml", *options)
    assert result.exit_code == 1
    assert said in result.output
    assert found is None


def test_it_reads_nothing_but_the_config(plan, tmp_path):
    """A folder with config.json alone is enough, and without one it says what is missing."""
    assert [path.name for path in QWEN3_8B.iterdir()] == ["config.json"]
    assert load_config(str(QWEN3_8B)) == MODELS["Qwen3-8B"]
    empty = tmp_path / "empty"
    empty.mkdir()
    result, _ = plan(ROOT / "configs/h100-1.yaml", "--device", "h100", "--model", empty)
    assert result.exit_code == 1
    assert "holds no config.json" in result.output
