"""Another model than the initial policy as the reference: a stronger one, or one from an earlier stage."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from lightning.pytorch.utilities.seed import isolate_rng

from lit_align.core.errors import ConfigError
from lit_align.core.forward import Scorer
from lit_align.core.policy import PolicySpec, load_base
from lit_align.references.base import Reference
from lit_align.references.frozen_copy import FrozenCopy


class OtherModel(FrozenCopy):
    """A model from a folder or hub, frozen; it must read tokens as the policy does.

    Args:
        name: folder or hub name; an adapter is merged into its base model.
        revision: branch, tag or commit on the hub.
    """

    can_refresh = False
    is_initial = False
    refresh = Reference.refresh

    def __init__(self, name: str, revision: str | None = None) -> None:
        super().__init__()
        self.name, self.revision = name, revision

    def build(self, policy: Scorer, spec: PolicySpec) -> None:
        """Load the model, in the policy's precision and on its device.

        Raises:
            ConfigError: it cannot be read, or has a vocabulary of another size.
        """
        spec = replace(spec, name=self.name, revision=self.revision, lora=None)
        # Loading may draw random numbers; a run must not depend on where its reference comes from.
        with isolate_rng():
            model = load_base(spec, next(policy.parameters()).device)
        ours, theirs = (_vocabulary(part) for part in (policy.model, model))
        if ours != theirs:
            raise ConfigError(
                "the reference has another vocabulary than the policy",
                got=f"{theirs} tokens in {self.name}, {ours} in {type(policy.model).__name__} of the policy",
                fix="name a model with the policy's tokenizer",
            )
        self.scorer = Scorer(model).requires_grad_(False)
        self.train(False)


def _vocabulary(model: Any) -> int:
    size: int = model.config.get_text_config().vocab_size
    return size
