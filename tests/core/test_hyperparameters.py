"""Arguments that a checkpoint cannot hold as they are: such a method trains, saves and resumes all the same."""

from __future__ import annotations

import enum
from pathlib import Path

import lightning as L
import numpy as np
import pytest
import torch

from lit_align import DPO
from lit_align.callbacks import ExactResume
from lit_align.core.hyperparameters import as_plain, savable
from tests.runs import STEPS, train


class Kind(enum.Enum):
    """Not a plain type."""

    A = "a"


class Text(str, enum.Enum):
    """Derived from a plain type."""

    A = "a"


class Called(DPO):
    """A user's method with an argument that no checkpoint can hold."""

    def __init__(self, *, scale, again: bool = False, **kwargs) -> None:
        super().__init__(**kwargs)
        self.scale = scale
        if again:
            self.save_hyperparameters()

    def losses(self, policy, reference):
        return self.scale(super().losses(policy, reference))


class Save(L.Callback):
    """Writes a checkpoint after half of the steps."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def on_train_batch_end(self, trainer, *args) -> None:
        if trainer.global_step == STEPS // 2:
            trainer.save_checkpoint(self.path)


METHODS = {
    "a path": lambda model: DPO(policy=Path(model), learning_rate=1e-2),
    "numpy": lambda model: DPO(
        policy=model, beta=np.float64(0.2), learning_rate=np.float32(1e-2), weight_decay=np.float64(0.1)
    ),
    "a function": lambda model: Called(policy=model, scale=lambda losses: 2 * losses),
    "saved again": lambda model: Called(policy=Path(model), scale=lambda losses: 2 * losses, again=True),
}


@pytest.mark.parametrize("name", METHODS)
def test_a_run_is_saved_and_resumed(name, tiny_model_dir, tmp_path):
    path, (whole, resumed) = tmp_path / "half.ckpt", [METHODS[name](tiny_model_dir) for _ in range(2)]
    train(whole, tmp_path, [ExactResume(), Save(path)])
    saved = torch.load(path, weights_only=True)["hyper_parameters"]
    assert saved["policy"] == tiny_model_dir
    assert type(saved.get("beta", 0.1)) is float
    assert "scale" not in saved
    train(resumed, tmp_path, [ExactResume()], resume=str(path))
    for key, value in whole.state_dict().items():
        assert torch.equal(value, resumed.state_dict()[key])


def test_plain_values():
    given = [Path("x"), np.float64(0.5), np.bool_(True), Text.A, (1, np.int8(2)), {"a": [np.str_("b")]}, True, None]
    plain = [as_plain(value) for value in given]
    assert plain == ["x", 0.5, True, "a", (1, 2), {"a": ["b"]}, True, None]
    assert [type(value) for value in plain] == [str, float, bool, str, tuple, dict, bool, type(None)]
    assert type(plain[4][1]) is int


def test_what_loads_without_code_is_saved():
    given = {
        "a": 1,
        "b": torch.float32,
        "c": Kind.A,
        "d": print,
        "e": {"f": print},
        "g": np.ones(2),
        "h": {"i": [None]},
    }
    assert savable(given) == {"a": 1, "b": torch.float32, "h": {"i": [None]}}
