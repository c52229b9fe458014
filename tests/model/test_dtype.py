"""`dtype: auto`: what is chosen on which device from which times, and how these are measured."""

from collections.abc import Iterator
from pathlib import Path

import checkpoints
import jax.numpy as jnp
import pytest
from transformers import PreTrainedTokenizerFast

from rcjax.model.config import ModelConfig
from rcjax.model.dtype import NUM_ROUNDS, AutoDtype, ProductTimes, measure_products
from rcjax.model.hf_config import config_from_hf
from rcjax.model.spec import load_model

HF_CONFIG = checkpoints.CONFIGS["llama3"] | {"vocab_size": 267}  # the tokenizer's
CONFIG = config_from_hf(HF_CONFIG)


def never(config: ModelConfig) -> ProductTimes:
    raise AssertionError("nothing is to be measured here")


@pytest.mark.parametrize(
    ("float32_s", "bfloat16_s", "dtype"),
    [(0.0125, 0.01, "bfloat16"), (0.0115, 0.01, "float32"), (0.01, 0.01, "float32"), (0.01, 0.03, "float32")],
)
def test_a_cpu_gets_bfloat16_where_it_is_clearly_faster(float32_s: float, bfloat16_s: float, dtype: str) -> None:
    auto = AutoDtype("cpu", (0, 12, 0), lambda config: ProductTimes(float32_s, bfloat16_s))
    choice = auto.choose(CONFIG)
    assert choice.dtype == dtype
    assert f"{1e3 * bfloat16_s:.2f} ms instead of {1e3 * float32_s:.2f}" in choice.reason


@pytest.mark.parametrize("version", [(0, 10, 2), (0, 11, 1)])
def test_a_jax_that_converts_the_pool_is_not_asked(version: tuple[int, ...]) -> None:
    choice = AutoDtype("cpu", version, never).choose(CONFIG)
    assert choice.dtype == "float32"
    assert f"jax {'.'.join(map(str, version))}" in choice.reason


@pytest.mark.parametrize("platform", ["gpu", "tpu"])
def test_accelerators_get_bfloat16_unmeasured(platform: str) -> None:
    assert AutoDtype(platform, (0, 10, 2), never).choose(CONFIG).dtype == "bfloat16"


def ticking(rounds: list[list[float]]) -> Iterator[float]:
    """What a clock says while rounds of products take so long; two rounds are always made."""
    now = 0.0
    yield now
    for number, durations in enumerate(rounds):
        for duration in durations:
            yield now
            now += duration
            yield now
        if number:
            yield now


def test_the_best_of_each_counts_over_both_numbers_of_tokens() -> None:
    first, second = [0.004, 0.020, 0.009, 0.010], [0.005, 0.016, 0.003, 0.010]
    clock = ticking([first, second, *[[0.05] * 4] * (NUM_ROUNDS - 2)])
    times = measure_products(CONFIG, lambda: next(clock))
    assert times.float32 == pytest.approx(0.004 + 0.016)
    assert times.bfloat16 == pytest.approx(0.003 + 0.010)


def test_a_slow_machine_is_asked_twice_only() -> None:
    clock = ticking([[0.2] * 4, [0.1] * 4])
    assert measure_products(CONFIG, lambda: next(clock)).float32 == pytest.approx(0.2)
    assert next(clock, None) is None


@pytest.fixture
def folder(tmp_path: Path, chatml_hf: PreTrainedTokenizerFast) -> Path:
    chatml_hf.save_pretrained(tmp_path)
    return checkpoints.write_folder(tmp_path, HF_CONFIG, checkpoints.tensors(HF_CONFIG))


@pytest.mark.parametrize(("gain", "dtype"), [(2, "bfloat16"), (1, "float32")])
def test_a_model_gets_the_weights_and_the_fingerprint_of_what_is_chosen(folder: Path, gain: int, dtype: str) -> None:
    asked: list[ModelConfig] = []

    def measure(config: ModelConfig) -> ProductTimes:
        asked.append(config)
        return ProductTimes(0.01 * gain, 0.01)

    model = load_model(str(folder), dtype=AutoDtype("cpu", (0, 12), measure))
    assert asked == [model.config]
    assert model.params["embed"].dtype == model.dtype == dtype
    assert model.dtype_reason.startswith("auto: ")
    explicit = load_model(str(folder), dtype=jnp.dtype(dtype))
    assert (explicit.dtype, explicit.fingerprint) == (dtype, model.fingerprint)
    assert explicit.dtype_reason == "as set"
