"""What of the optimisation a loop changes from round to round: settings of the method, and its schedule."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from lightning.pytorch import Trainer
from torch.optim.lr_scheduler import LambdaLR

from lit_align.core.errors import ConfigError

if TYPE_CHECKING:
    from lit_align.core.module import AlignmentModule

RATE = "learning_rate"

PerRound = Mapping[int, Mapping[str, float]]
"""Settings of the method from a round on, by the round's number."""


def check_per_round(module: AlignmentModule, per_round: PerRound, rounds: int) -> None:
    """Refuse settings for rounds that the method does not have, or would not take.

    Raises:
        ConfigError: there are some.
    """
    given = {name: value for name, value in module.hparams.items() if not name.startswith("_")}
    for number, settings in per_round.items():
        for name in settings:
            known = isinstance(given.get(name), int | float) and not isinstance(given.get(name), bool)
            if not known or not 1 <= number <= rounds:
                raise ConfigError(
                    f"{type(module).__name__} has no such setting for a round",
                    got=f"per_round: round {number}, {name}",
                    fix=f"name a number of the method, such as learning_rate or beta, and a round from 1 to {rounds}",
                )
            if name == RATE and module.lr_scheduler_factory is not None:
                raise ConfigError(
                    "a schedule of your own decides the learning rate of every round",
                    got=f"per_round: round {number}, {name}; and model.lr_scheduler",
                    fix="leave one of them out",
                )
        # The method checks its numbers where it is made.
        type(module)(**(given | dict(settings)))


def of_round(per_round: PerRound, number: int) -> dict[str, float]:
    """The settings that hold in a round: its own, and those of earlier ones that nothing has replaced."""
    return {name: value for of in sorted(per_round) if of <= number for name, value in per_round[of].items()}


def restart_schedules(trainer: Trainer, rate: float | None) -> None:
    """Let the default schedule begin anew: where it stands, `core.steps.within_stretch` says. Users' own go on.

    Args:
        trainer: in training.
        rate: another peak of the learning rate; None: as before.
    """
    for config in trainer.lr_scheduler_configs:
        scheduler = config.scheduler
        if isinstance(scheduler, LambdaLR):
            if rate is not None:
                scheduler.base_lrs = [rate] * len(scheduler.base_lrs)
            groups = zip(scheduler.optimizer.param_groups, scheduler.base_lrs, scheduler.lr_lambdas, strict=True)
            for group, base, factor in groups:
                group["lr"] = base * factor(scheduler.last_epoch)
