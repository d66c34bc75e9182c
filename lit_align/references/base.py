"""What a reference is: a model that the policy is compared with, and that training does not change."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from contextlib import AbstractContextManager

import torch
from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh

from lit_align.core.batch import Rows
from lit_align.core.errors import ConfigError
from lit_align.core.forward import Scorer
from lit_align.core.outputs import SequenceLogps
from lit_align.core.policy import PolicySpec
from lit_align.functional.logprobs import segment_sums
from lit_align.functional.token_features import Distribution


class Reference(nn.Module, ABC):
    """Source of reference log-probabilities."""

    can_refresh = False
    """Whether `refresh` works (TR-DPO)."""
    is_initial = False
    """Whether it is the policy that training began with, until it is refreshed, and scores any text."""
    distribution: Distribution | None = None
    """Of the tokens of the last call that asked for it; gone when the batch is."""

    def __init__(self) -> None:
        super().__init__()
        self.is_state = False
        """Whether it differs from what `policy` names, and so belongs into the checkpoint."""

    def build(self, policy: Scorer, spec: PolicySpec) -> None:
        """Prepare the reference from the freshly built policy, before it is sharded or restored.

        Args:
            policy: the policy at its initial weights.
            spec: how it was built.
        """

    def shard(self, mesh: DeviceMesh) -> None:
        """Shard the reference's own weights, if it has any, as the policy's are."""

    @abstractmethod
    def token_logps(self, rows: Rows, *, whole: bool = False) -> Tensor:
        """Token log-probabilities [N] under the reference, nats; called without gradient.

        Args:
            rows: what to score.
            whole: leave the distributions behind that the tokens come from, as `distribution`.
        """

    @torch.no_grad()
    def logps(self, rows: Rows, cached: Tensor | None = None, *, whole: bool = False) -> SequenceLogps:
        """Log-probabilities of the rows' M responses, without gradient.

        Args:
            rows: what to score.
            cached: [M] values that came with the batch; only `Precomputed` uses them.
            whole: leave the distributions behind that the tokens come from, as `distribution`.
        """
        tokens = self.token_logps(rows, whole=whole)
        sums = segment_sums(tokens, rows.response, len(rows.response_lengths))
        return SequenceLogps(sums, rows.response_lengths, tokens)

    def model_within(self) -> tuple[Scorer, Callable[[], AbstractContextManager[None]]]:
        """The model behind the reference, and what has to be entered for it to be the reference.

        Raises:
            ConfigError: there is no model.
        """
        raise ConfigError(
            "this reference has no model to write with",
            got=f"reference: {type(self).__name__}",
            fix="use reference: auto, frozen_copy, or the name of a model",
        )

    def refresh(self, policy: Scorer, alpha: float) -> None:
        """Move the reference towards the policy: reference = alpha * policy + (1 - alpha) * reference.

        Args:
            policy: the policy as it is now.
            alpha: weight of the policy in (0, 1]; 1 replaces the reference.

        Raises:
            ConfigError: this reference cannot change.
        """
        raise ConfigError(
            "this reference cannot be refreshed",
            got=f"reference: {type(self).__name__}",
            fix="use reference: auto, frozen_copy, or named_adapter with LoRA",
        )

    def owns(self, name: str) -> bool:
        """Whether the module's parameter `name` holds the reference although it is part of the policy."""
        return False

    def train(self, mode: bool = True) -> Reference:
        """Stay in evaluation mode: dropout in a reference would be noise in every loss."""
        return super().train(False)
