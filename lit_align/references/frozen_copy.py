"""A second set of weights: the policy as it was before training."""

from __future__ import annotations

import copy
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext

import torch
from torch import Tensor
from torch.distributed.device_mesh import DeviceMesh

from lit_align.core.batch import Rows
from lit_align.core.forward import Scorer
from lit_align.core.policy import PolicySpec
from lit_align.core.sharding import reshard, shard
from lit_align.references.base import Reference


class FrozenCopy(Reference):
    """Frozen copy of the initial policy; costs a second set of weights and can be refreshed."""

    can_refresh = True
    is_initial = True

    def build(self, policy: Scorer, spec: PolicySpec) -> None:
        """Copy the policy's weights."""
        self.scorer = Scorer(copy.deepcopy(policy.model)).requires_grad_(False)
        self.train(False)

    def shard(self, mesh: DeviceMesh) -> None:
        """Shard the copy like the policy."""
        shard(self.scorer, mesh)

    def model_within(self) -> tuple[Scorer, Callable[[], AbstractContextManager[None]]]:
        """The model, and nothing that has to be done to it."""
        return self.scorer, nullcontext

    def token_logps(self, rows: Rows, *, whole: bool = False) -> Tensor:
        """Token log-probabilities [N] under the copy, nats."""
        logps: Tensor = self.scorer(rows, whole=whole)
        self.distribution, self.scorer.distribution = self.scorer.distribution, None
        return logps

    @torch.no_grad()
    def refresh(self, policy: Scorer, alpha: float) -> None:
        """Mix the policy's weights into the copy; on sharded models every rank mixes its own shards."""
        reshard(policy)
        reshard(self.scorer)
        for mine, theirs in zip(self.scorer.parameters(), policy.parameters(), strict=True):
            # What is not trained is equal already, and weights in 4 bits could not be mixed.
            if theirs.requires_grad:
                mine.lerp_(theirs.to(mine.dtype), alpha)
        for kept, new in zip(self.scorer.buffers(), policy.buffers(), strict=True):
            kept.copy_(new)
        self.is_state = True
