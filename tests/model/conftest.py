"""Lets tests import the helpers beside the goldens, and gives them the tokenizer that tiny checkpoints use."""

import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from chatml_tokenizer import byte_level_tokenizer
from transformers import PreTrainedTokenizerFast

sys.path.insert(0, str(Path(__file__).parents[1] / "golden"))


@pytest.fixture
def chatml_hf() -> PreTrainedTokenizerFast:
    return byte_level_tokenizer()


@pytest.fixture(scope="session")
def new_tokenizer() -> Callable[[], PreTrainedTokenizerFast]:
    """For fixtures that outlive a test."""
    return byte_level_tokenizer
