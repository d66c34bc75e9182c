"""SPO-DPO: Jian et al. 2025, "Stable Preference Optimization: A Bilevel Approach to Catastrophic Preference Shift".

https://arxiv.org/abs/2507.07723 (equation number not checked). Methods that only compare two responses may move
probability from both to texts that nobody asked for. SPO learns preferences (the upper level) among the policies that
imitate the chosen responses well (the lower level): the loss of DPO plus rho times a penalty on how far their mean
negative log-likelihood lies above a target.

Differs: reconstructed from the paper's abstract and results; no code was published, and its equations, rho and loop
were not seen. The penalised form only: the paper's lower level, a copy of the model that takes steps of SFT of its own
and so says what the target is, is left out. With the linear penalty (the default) SPO is DPO plus an SFT term; the
hinges act only once the policy imitates worse than the target (see `_bilevel.py`).
"""

from __future__ import annotations

from lit_align.methods._bilevel import Bilevel
from lit_align.methods.dpo import DPO


class StableDPO(Bilevel, DPO):  # type: ignore[misc]  # Where DPO returns a tensor, this returns terms.
    """DPO among policies that imitate well (SPO).

    When: chosen responses become less likely under DPO, and other skills suffer.

    Args:
        rho: weight of the penalty.
        penalty: linear; hinge or squared_hinge, which act only where the target is missed by more than `slack`.
        v_hat: target of the mean negative log-likelihood of the chosen responses, nats per token; initial: that of the
            initial policy on the first 256 training rows.
        slack: by how much the target may be missed, nats per token; not for the linear penalty.
        nll_reduction: token_mean: mean over all chosen tokens; sequence_mean: over responses of their means.
        **kwargs: those of DPO and of every method.
    """
