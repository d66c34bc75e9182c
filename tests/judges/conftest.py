"""Tiny reward models in folders, as `lit-align export` would write them."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from transformers import LlamaForSequenceClassification

from tests.helpers import build_tiny_tokenizer, tiny_config


def save_reward_model(folder: Path, seed: int = 0, names: tuple[str, ...] = ("score",)) -> str:
    """Write a classifier of random weights, whose scores differ enough to be told apart."""
    torch.manual_seed(seed)
    labels = {"id2label": dict(enumerate(names)), "label2id": {name: n for n, name in enumerate(names)}}
    model = LlamaForSequenceClassification(tiny_config(num_labels=len(names), **labels))
    for parameter in model.parameters():
        if parameter.dim() > 1:
            torch.nn.init.normal_(parameter, std=0.15)
    model.save_pretrained(folder)
    build_tiny_tokenizer().save_pretrained(folder)
    return str(folder)


@pytest.fixture(scope="session")
def reward_dir(tmp_path_factory) -> str:
    """A model of one number."""
    return save_reward_model(tmp_path_factory.mktemp("reward") / "model")


@pytest.fixture(scope="session")
def rated_dir(tmp_path_factory) -> str:
    """A model of three numbers with names."""
    return save_reward_model(tmp_path_factory.mktemp("rated") / "model", names=("helpful", "correct", "verbose"))
