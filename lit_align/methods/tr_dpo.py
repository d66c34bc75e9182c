"""TR-DPO: Gorbatovski et al. 2024, "Learn Your Reference Model for Real Good Alignment".

https://arxiv.org/abs/2404.09656, DPO's Eq. 7 with a reference that follows the policy. DPO may drift away from a
reference that stays where it was; here the reference moves towards the policy from time to time, so that the policy can
go further than its first reference would allow.

The loss is DPO's; the callback `ReferenceSync` moves the reference, softly (`alpha: 0.6`, `configs/tr_dpo.yaml`) or by
copying (`alpha: 1.0`, `configs/tr_dpo_hard.yaml`). After a refresh log-ratios and with them rewards and margins are
closer to 0: that is expected. On IPO or KTO the same callback makes TR-IPO and TR-KTO.

Differs: whether the paper moves the reference at every step in its soft variant could not be settled; as in TRL 1.16,
alpha and the interval are independent here. TRL refuses LoRA, this library does not.
"""

from __future__ import annotations

from typing import Any

from lit_align.core.capabilities import Capability
from lit_align.methods.dpo import DPO


class TRDPO(DPO):
    """DPO with a reference that follows the policy.

    When: DPO stays too close to its first reference.

    Args:
        beta: KL strength; larger stays closer to the present reference.
        label_smoothing: share of labels believed flipped; 0 is the paper's loss.
    """

    requires = frozenset({Capability.REFERENCE_REFRESH})

    def __init__(self, *, beta: float = 0.05, label_smoothing: float = 0.0, **kwargs: Any) -> None:
        super().__init__(beta=beta, label_smoothing=label_smoothing, **kwargs)
