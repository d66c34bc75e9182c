"""A second adapter on the same base: a reference that can be refreshed under LoRA and QLoRA."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Any

import torch
from lightning.pytorch.utilities.seed import isolate_rng
from torch import Tensor

from lit_align.core.batch import Rows
from lit_align.core.errors import ConfigError
from lit_align.core.forward import Scorer
from lit_align.core.modes import evaluating
from lit_align.core.policy import PolicySpec
from lit_align.core.sharding import reshard
from lit_align.references.base import Reference

_NAME = "reference"


class NamedAdapter(Reference):
    """Adapter `reference` beside the one that is trained; both stand on the same base weights.

    A hard refresh (alpha = 1) copies the trained adapter. A soft one mixes the adapters' factors A and B one by one,
    which is TR-DPO's rule applied to the trained parameters, not a mixture of the products BA.
    """

    can_refresh = True
    is_initial = True

    def build(self, policy: Scorer, spec: PolicySpec) -> None:
        """Add the second adapter, equal to the first.

        Raises:
            ConfigError: the policy has no adapters.
        """
        model: Any = policy.model
        if not hasattr(model, "peft_config"):
            raise ConfigError(
                "reference: named_adapter needs a policy with adapters",
                got=f"policy {spec.name} without LoRA",
                fix="add the LoRA or QLoRA callback, or use reference: frozen_copy",
            )
        (self._trained,) = model.active_adapters
        # New adapters are drawn at random before the copy below; the run's own random numbers stay untouched.
        with isolate_rng():
            model.add_adapter(_NAME, model.peft_config[self._trained])
        self._policy = (policy,)
        for mine, theirs in self._pairs():
            mine.data.copy_(theirs.data)
            mine.requires_grad_(False)

    def model_within(self) -> tuple[Scorer, Callable[[], AbstractContextManager[None]]]:
        """The policy, and its being switched over."""
        return self._policy[0], self._switched

    def token_logps(self, rows: Rows, *, whole: bool = False) -> Tensor:
        """Token log-probabilities [N] under the reference adapter, nats."""
        (policy,) = self._policy
        with self._switched():
            logps: Tensor = policy(rows, whole=whole)
        self.distribution = policy.distribution_within(self._switched)
        return logps

    @torch.no_grad()
    def refresh(self, policy: Scorer, alpha: float) -> None:
        """Mix the trained adapter into the reference adapter."""
        reshard(policy)
        for mine, theirs in self._pairs():
            mine.lerp_(theirs, alpha)
        self.is_state = True

    def owns(self, name: str) -> bool:
        """Whether `name` is a parameter of the reference adapter."""
        return f".{_NAME}." in name

    def _pairs(self) -> Iterator[tuple[Tensor, Tensor]]:
        (policy,) = self._policy
        parameters = dict(policy.named_parameters())
        for name, parameter in parameters.items():
            if self.owns(name):
                yield parameter, parameters[name.replace(f".{_NAME}.", f".{self._trained}.")]

    @contextmanager
    def _switched(self) -> Iterator[None]:
        """The model with the reference adapter, leaving what is trainable as it was."""
        (policy,) = self._policy
        model: Any = policy.model
        trainable = [p for p in model.parameters() if p.requires_grad]
        model.set_adapter(_NAME)
        try:
            with evaluating(policy):
                yield
        finally:
            model.set_adapter(self._trained)
            for parameter in model.parameters():
                parameter.requires_grad_(False)
            for parameter in trainable:
                parameter.requires_grad_(True)
