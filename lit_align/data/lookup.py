"""Examples of a run, for those who look at them beside training."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from lightning.pytorch import Trainer

from lit_align.core.batch import Example
from lit_align.core.errors import ConfigError
from lit_align.data.module import PreferenceDataModule


def training_data(trainer: Trainer, purpose: str) -> PreferenceDataModule:
    """The data module of a run, whose training rows can be looked up.

    Args:
        trainer: of the run.
        purpose: who asks, for the error.

    Raises:
        ConfigError: there is none, or it streams.
    """
    data = trainer.datamodule
    if not isinstance(data, PreferenceDataModule) or data.streaming:
        raise ConfigError(
            f"{purpose} has to look up rows of the training data",
            got="data.streaming: true" if isinstance(data, PreferenceDataModule) else "no PreferenceDataModule",
            fix="train with a PreferenceDataModule, and without data.streaming",
        )
    return data


def loaded_examples(trainer: Trainer) -> Sequence[Example]:
    """What the validation loader draws from, or the training loader; nothing where neither says."""
    loaders: tuple[Any, ...] = (trainer.val_dataloaders, trainer.train_dataloader)
    for loader in loaders:
        loader = loader[0] if isinstance(loader, (list, tuple)) and loader else loader
        examples = getattr(loader, "examples", None)
        if examples is not None:
            return examples
    return []
