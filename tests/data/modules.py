"""The data module with a small trainer around it, as several files of tests need it."""

from __future__ import annotations

import json

import lightning as L
import pytest
import torch

from lit_align.core.batch import DataKind, Layout
from lit_align.data.module import PreferenceDataModule
from tests.data import tokenizers as tk

QUIET = [
    pytest.mark.filterwarnings("ignore:.*callbacks used to create the checkpoint.*"),
    pytest.mark.filterwarnings("ignore:.*predict returned None.*"),
]
"""Marks for files whose tests train."""


def write(path, rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


def pair_rows(count, prompts=None):
    return [
        {"prompt": f"Q{n % (prompts or count)}?", "chosen": f" yes {n}" + "!" * (n % 5), "rejected": f" no {n}"}
        for n in range(count)
    ]


def make_module(folder, train=None, **settings):
    """A data module with a byte tokenizer, whose cache is in `folder`."""
    own = PreferenceDataModule(train, **{"cache_dir": str(folder / "cache"), "batch_size": 4, **settings})
    own.sets.tokenizer = tk.byte_tokenizer(tk.WITH_BOS)
    return own


class Method(L.LightningModule):
    """Notes the rows of each batch, and trains one number."""

    data_kind = DataKind.PAIRS
    resolved_layout = Layout.SHARED
    score_prompts = False
    needs_kl = False

    def __init__(self, kind=DataKind.PAIRS, ask_length=False):
        super().__init__()
        self.data_kind = kind
        self.ask_length = ask_length
        self.weight = torch.nn.Parameter(torch.zeros(()))
        self.seen, self.validated, self.tested, self.predicted = [], [], [], []

    def training_step(self, batch, batch_idx):
        rows = batch.source_rows.tolist()
        self.seen.append((self.current_epoch, batch_idx, rows, batch.window, self.global_step))
        return (self.weight - 1) ** 2

    def validation_step(self, batch, batch_idx):
        self.validated.append(batch)

    def test_step(self, batch, batch_idx):
        self.tested.append(batch)

    def predict_step(self, batch, batch_idx):
        self.predicted.append(batch)

    def configure_optimizers(self):
        if self.ask_length:
            assert self.trainer.estimated_stepping_batches > 0
        return torch.optim.SGD(self.parameters(), lr=0.1)


class KTO(Method):
    pass


def trainer(tmp_path, **settings):
    defaults = {"max_epochs": 1, "accelerator": "cpu", "logger": False, "enable_progress_bar": False}
    defaults |= {"enable_model_summary": False, "enable_checkpointing": "callbacks" in settings}
    return L.Trainer(default_root_dir=str(tmp_path / "run"), num_sanity_val_steps=0, **{**defaults, **settings})


def fit(tmp_path, data, method=None, ckpt_path=None, **settings):
    method = method or Method()
    trainer(tmp_path, **settings).fit(method, data, ckpt_path=ckpt_path)
    return method


def rows_of(batches):
    return sorted(row for batch in batches for row in batch.source_rows.tolist())
