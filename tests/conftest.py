"""Fixtures that every test may use: tiny models and tokenizers made in memory, never from the network."""

from __future__ import annotations

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
os.environ.setdefault("JSONARGPARSE_DEPRECATION_WARNINGS", "off")

from pathlib import Path

import pytest
import torch

from tests.helpers import build_tiny_tokenizer, save_tiny_model

torch.set_num_threads(1)


@pytest.fixture(autouse=True)
def _clean_torch_state():
    """Leave no default dtype and no process group behind."""
    dtype = torch.get_default_dtype()
    yield
    torch.set_default_dtype(dtype)
    if torch.distributed.is_available() and torch.distributed.is_initialized():
        torch.distributed.destroy_process_group()


@pytest.fixture(scope="session")
def shared_dir() -> Path:
    """The folder with real data and a real tiny model, beside the checkout; absent for most people."""
    path = Path(__file__).resolve().parents[2] / "shared"
    if not (path / "models" / "stories260k").is_dir():
        pytest.skip(f"no real data at {path}")
    return path


@pytest.fixture(scope="session")
def tiny_tokenizer():
    """A 300-token byte-level tokenizer with BOS, EOS, PAD and a chat template."""
    return build_tiny_tokenizer()


@pytest.fixture(scope="session")
def tiny_model_dir(tmp_path_factory) -> str:
    """A folder with a two-layer random Llama and the tiny tokenizer, as a user would have one.

    Its configuration has a dropout, which `dropout: true` turns on.
    """
    return save_tiny_model(tmp_path_factory.mktemp("tiny") / "model", attention_dropout=0.1)
