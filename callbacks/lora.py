"""Train low-rank adapters in place of the weights."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, ClassVar

from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.utilities import rank_zero_info

from lit_align.core.capabilities import Capability
from lit_align.core.errors import ConfigError
from lit_align.core.policy import LoRASpec, PolicySpec, count_parameters


class LoRA(Callback):
    """Adds adapters to the policy before it is built; then only they are trained and saved.

    The base weights stay as they are, so they serve as the reference at no cost (`reference: auto`).

    Args:
        r: rank of the adapters.
        alpha: their scale is alpha / r (alpha / sqrt(r) if rank-stabilised).
        dropout: on the adapters' input, in training.
        target_modules: names of the layers to adapt, `all-linear` (all but the head), or a regular expression.
        rank_stabilised: scale by sqrt(r), so that high ranks learn as fast as low ones.
        modules_to_save: modules that are trained whole beside the adapters. A reward head always is.
    """

    provides: ClassVar[frozenset[Capability]] = frozenset({Capability.ADAPTERS})

    def __init__(
        self,
        r: int = 16,
        alpha: float = 32.0,
        dropout: float = 0.0,
        target_modules: str | list[str] = "all-linear",
        rank_stabilised: bool = False,
        modules_to_save: list[str] | None = None,
    ) -> None:
        self.spec = LoRASpec(
            r=r,
            alpha=alpha,
            dropout=dropout,
            target_modules=target_modules if isinstance(target_modules, str) else tuple(target_modules),
            rank_stabilised=rank_stabilised,
            modules_to_save=tuple(modules_to_save or ()),
        )

    def adapt(self, spec: PolicySpec) -> PolicySpec:
        """Return `spec` with these adapters."""
        return replace(spec, lora=self.spec)

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Change how the policy will be built, in every stage: a checkpoint of adapters is read by validate too.

        Raises:
            ConfigError: there are two such callbacks, or the policy is already built in another way.
        """
        self._refuse_a_second(trainer)
        module: Any = pl_module
        if not isinstance(getattr(module, "policy_spec", None), PolicySpec):
            raise ConfigError(
                f"{type(self).__name__} adapts the policies of lit-align's methods",
                got=type(pl_module).__name__,
                fix="use a method of lit_align.methods",
            )
        current: PolicySpec = module.policy_spec
        adapted = self.adapt(current)
        if adapted == current:
            # The same module again, as when `validate` follows `fit`.
            return
        if current.lora is not None or hasattr(module, "policy"):
            raise ConfigError(
                f"{type(self).__name__} comes too late: the policy already has its final form",
                got="other adapters" if current.lora is not None else "a policy that was built without adapters",
                fix="make a new module for this run",
            )
        module.policy_spec = adapted

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Say how many parameters are trained."""
        counts = count_parameters(pl_module.get_submodule("policy"))
        rank_zero_info(f"{type(self).__name__}: {counts}")

    def _refuse_a_second(self, trainer: Trainer) -> None:
        names = [type(callback).__name__ for callback in trainer.callbacks if isinstance(callback, LoRA)]
        if len(names) > 1:
            raise ConfigError(
                "a policy takes one set of adapters",
                got=f"trainer.callbacks with {' and '.join(names)}",
                fix="keep one of LoRA and QLoRA",
            )
