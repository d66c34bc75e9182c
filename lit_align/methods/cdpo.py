"""Conservative DPO: Mitchell 2023, "A note on DPO with noisy preferences & relationship to IPO".

https://ericmitchell.ai/cdpo.pdf, Eq. 3. DPO for labels of which a share eps is flipped: a pair's gradient vanishes once
the policy holds the label with probability 1 - eps, so gaps stay finite, at log((1 - eps) / eps) / beta.

Differs: not robust DPO (Chowdhury et al. 2024), which subtracts the second term instead of adding it.
"""

from __future__ import annotations

from typing import Any

from lit_align.methods.dpo import DPO


class ConservativeDPO(DPO):
    """DPO with smoothed labels.

    When: some labels are wrong, and margins should stay finite.

    Args:
        beta: KL strength; larger stays closer to the reference.
        label_smoothing: share of labels believed flipped, in (0, 0.5).
    """

    def __init__(self, *, beta: float = 0.1, label_smoothing: float = 0.1, **kwargs: Any) -> None:
        super().__init__(beta=beta, label_smoothing=label_smoothing, **kwargs)
