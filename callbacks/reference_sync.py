"""TR-DPO: a reference that follows the policy."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar, cast

from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.utilities.rank_zero import rank_zero_warn

from lit_align.core.capabilities import Capability
from lit_align.core.errors import ConfigError
from lit_align.core.steps import OptimizerStepCallback

if TYPE_CHECKING:
    from lit_align.core.forward import Scorer
    from lit_align.core.module import AlignmentModule


class ReferenceSync(OptimizerStepCallback):
    """Moves the reference towards the policy every n optimiser steps.

    reference = alpha * policy + (1 - alpha) * reference. Gorbatovski et al., "Learn Your Reference Model for Real
    Good Alignment" (2024), https://arxiv.org/abs/2404.09656. Works with any method that has a reference: on DPO it
    is TR-DPO, on IPO TR-IPO, on KTO TR-KTO. After a refresh the policy is close to its reference again, so rewards
    and margins fall back towards 0: that is expected.

    Differs: the paper has a soft variant (alpha < 1) and a hard one (alpha = 1, rarely); as in TRL, alpha and the
    interval are independent here. The hard variant is `alpha: 1.0`.

    Example::

        trainer:
          callbacks:
            - class_path: lit_align.callbacks.ReferenceSync
              init_args: {alpha: 0.6, every_n_steps: 512}

    Args:
        alpha: weight of the policy, in (0, 1].
        every_n_steps: optimiser steps, not micro-batches, between refreshes.

    Raises:
        ConfigError: a number is out of range, or the method's reference cannot change.
    """

    provides: ClassVar[frozenset[Capability]] = frozenset({Capability.REFERENCE_REFRESH})

    def __init__(self, alpha: float = 0.6, every_n_steps: int = 512) -> None:
        if not 0 < alpha <= 1:
            raise ConfigError(
                "ReferenceSync cannot mix with this weight",
                got=f"alpha: {alpha}",
                fix="give the policy's weight, above 0 and at most 1; it is not a decay: 1 replaces the reference",
            )
        if every_n_steps < 1:
            raise ConfigError(
                "ReferenceSync cannot refresh at this interval",
                got=f"every_n_steps: {every_n_steps}",
                fix="give a positive number of optimiser steps",
            )
        self.alpha = alpha
        self.every_n_steps = every_n_steps
        self.refreshed_at = 0
        """Optimiser step of the last refresh; 0: none yet."""

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Tell the module, before it builds its reference, that the reference will change."""
        cast("AlignmentModule", pl_module).reference_will_refresh = True

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Refuse references that cannot change."""
        reference = cast("AlignmentModule", pl_module).reference
        if reference is None:
            raise ConfigError(
                "ReferenceSync has nothing to refresh",
                got=f"{type(pl_module).__name__}, which uses no reference",
                fix="remove ReferenceSync, or use a method with a reference, such as DPO",
            )
        if not reference.can_refresh:
            raise ConfigError(
                "ReferenceSync needs a reference that can change",
                got=f"reference: {type(reference).__name__}",
                fix="set model.reference to auto, to frozen_copy, or with LoRA to named_adapter",
            )

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Warn where training ends before the first refresh."""
        super().on_train_start(trainer, pl_module)
        total = trainer.estimated_stepping_batches
        # Lightning gives -1 for a stream that only `max_epochs` ends.
        if 0 <= total < self.every_n_steps:
            rank_zero_warn(
                f"ReferenceSync(every_n_steps={self.every_n_steps}) will not refresh the reference: "
                f"training ends after {total:.0f} optimiser steps."
            )

    def after_optimizer_step(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Refresh if a refresh is due."""
        if self._step % self.every_n_steps == 0:
            module = cast("AlignmentModule", pl_module)
            assert module.reference is not None
            module.reference.refresh(cast("Scorer", module.policy), self.alpha)
            self.refreshed_at = self._step

    def state_dict(self) -> dict[str, Any]:
        """When the reference was last refreshed; its weights are part of the module's state."""
        return {"refreshed_at": self.refreshed_at}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on from `state_dict`."""
        self.refreshed_at = state_dict["refreshed_at"]
