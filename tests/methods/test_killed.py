"""KTO with dropout, killed inside an accumulation window, goes on as if nothing had happened.

Beside DPO (through the command line: `tests/test_kill_and_resume.py`) this is the method whose batches are of another
shape: labels, and completions that are mismatched within each micro-batch.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import seed_everything

from lit_align import KTO
from lit_align.callbacks import ExactResume, RunCheckpoint
from tests.helpers import save_tiny_model
from tests.kill import Kill
from tests.launch import RankError, launch
from tests.runs import Losses, train


def kto(model: str, root: Path, *callbacks: Any, resume: str | None = None) -> tuple[dict[str, torch.Tensor], Any]:
    """Eight optimiser steps of two micro-batches; the weights, and the loss of every micro-batch of this process."""
    seed_everything(3, verbose=False)
    module, losses = KTO(policy=model, dropout=True, learning_rate=1e-3), Losses()
    train(
        module, root, [ExactResume(), RunCheckpoint(every_n_steps=1), losses, *callbacks],
        resume=resume, convert="pairs_to_unpaired", batch_size=4, num_workers=0,
    )  # fmt: skip
    return {name: value.detach().clone() for name, value in module.state_dict().items()}, losses.values


@pytest.mark.parametrize(("moment", "count"), [("batch", 10), ("forward", 11)])
def test_a_killed_run_equals_one_that_was_not(moment, count, tmp_path):
    """Micro-batches 10 and 11 are one optimiser step; the run is killed between them, or in the second one."""
    model = save_tiny_model(tmp_path / "model", attention_dropout=0.2)
    expected, losses = kto(model, tmp_path / "through")
    kill = Kill(moment, count)
    with pytest.raises(RankError, match="died"):
        launch(kto, model, tmp_path / "killed", kill, world=1)
    weights, rest = kto(model, tmp_path / "killed", resume="last")
    assert rest == losses[9:]
    assert weights.keys() == expected.keys()
    assert [name for name in expected if not torch.equal(weights[name], expected[name])] == []


def test_dropout_is_on(tmp_path):
    """Without it, a state of random numbers that is not restored would go unnoticed."""
    noisy, still = (
        kto(save_tiny_model(tmp_path / f"{rate}", attention_dropout=rate), tmp_path / f"run {rate}")[1]
        for rate in (0.2, 0.0)
    )
    assert noisy != still
