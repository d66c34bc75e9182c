"""The policy without its adapters: with LoRA the base weights are the reference, at no cost in memory."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Any

from torch import Tensor

from lit_align.core.batch import Rows
from lit_align.core.errors import ConfigError
from lit_align.core.forward import Scorer
from lit_align.core.modes import evaluating
from lit_align.core.policy import PolicySpec
from lit_align.references.base import Reference


class AdaptersOff(Reference):
    """The policy's base model, reached by switching the adapters off for one forward pass."""

    is_initial = True

    def build(self, policy: Scorer, spec: PolicySpec) -> None:
        """Remember the policy.

        Raises:
            ConfigError: the policy has no adapters.
        """
        if not hasattr(policy.model, "disable_adapter"):
            raise ConfigError(
                "reference: adapters_off needs a policy with adapters",
                got=f"policy {spec.name} without LoRA",
                fix="add the LoRA or QLoRA callback, or use reference: frozen_copy",
            )
        # In a tuple, so that the policy is not registered here a second time.
        self._policy = (policy,)

    def model_within(self) -> tuple[Scorer, Callable[[], AbstractContextManager[None]]]:
        """The policy, and its being switched over."""
        return self._policy[0], self._switched

    def token_logps(self, rows: Rows, *, whole: bool = False) -> Tensor:
        """Token log-probabilities [N] under the base model, nats."""
        (policy,) = self._policy
        with self._switched():
            logps: Tensor = policy(rows, whole=whole)
        self.distribution = policy.distribution_within(self._switched)
        return logps

    @contextmanager
    def _switched(self) -> Iterator[None]:
        """The model without its adapters."""
        (policy,) = self._policy
        model: Any = policy.model
        with evaluating(policy), model.disable_adapter():
            yield
