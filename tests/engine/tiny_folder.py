"""A tiny checkpoint with a tokenizer, as a folder that `load_model` reads, and settings for it."""

import sys
from pathlib import Path

from tiny_engine import tiny_settings
from tiny_model import tiny_tokenizer

from rcjax.config import Settings

sys.path.insert(0, str(Path(__file__).parents[1] / "golden"))

from checkpoints import CONFIGS, tensors, write_folder


def tiny_folder(folder: Path) -> Path:
    """Writes the checkpoint of the goldens' llama3, with the tiny tokenizer, into `folder`, and returns that."""
    tokenizer = tiny_tokenizer()
    config = CONFIGS["llama3"] | {"vocab_size": tokenizer.vocab_size, "max_position_embeddings": 4096}
    folder.mkdir(parents=True, exist_ok=True)
    write_folder(folder, config, tensors(config))
    tokenizer.save(folder)
    return folder


def folder_settings(folder: Path, **changed: object) -> Settings:
    """As `tiny_settings`, with a model that start-up loads from `folder`."""
    return tiny_settings(folder, **({"model": str(tiny_folder(folder / "model"))} | changed))
