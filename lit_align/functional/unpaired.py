"""Building blocks of losses on single completions: what two or more methods share."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid


def label_nll(logits: Tensor, label: Tensor) -> Tensor:
    """Negative log-likelihood of labels under a classifier.

    Args:
        logits: [B] log-odds that a completion is desirable, nats, with gradient.
        label: [B] bool, True for desirable.

    Returns:
        [B] losses, nats, finite for any finite logit.
    """
    return -logsigmoid(torch.where(label, logits, -logits))
