"""AOT, unpaired: Melnyk et al. 2024, "Distributional Preference Alignment of LLMs via Optimal Transport".

https://arxiv.org/abs/2406.05882, Algorithm 1 for two sets. DPO's Eq. 7 compares the log-ratio of a chosen response with
that of the rejected one to the same prompt. Here a batch's log-ratios are sorted, those of the chosen and those of the
rejected responses, and the ones at the same place are compared, whatever their prompts: chosen responses as a whole are
to have larger rewards. Chosen and rejected of a row need not belong together.

The loss couples the examples of a micro-batch, of all ranks: larger batches estimate the distributions better, and
accumulating micro-batches does not replace them. Each example is given the loss of the place at which its chosen
response stands; the gradient of both responses is exact wherever the one each is compared with lives.

Differs: TRL 1.16 sorts within each process; here all ranks' log-ratios are sorted together.
"""

from __future__ import annotations

from torch import Tensor

from lit_align.core.metrics import over_ranks
from lit_align.core.outputs import PairLogps
from lit_align.functional.pairwise import logistic, same_place, value_with_gradient_of
from lit_align.methods.aot import AOT


def aot_unpaired_loss(
    ratios: PairLogps, everyone: tuple[Tensor, Tensor], own: slice, beta: float, label_smoothing: float
) -> Tensor:
    """Negative log-likelihood that chosen responses' log-ratios are above the rejected ones' of the same rank.

    Args:
        ratios: log-ratios of this rank's responses, each [B], nats, with gradient.
        everyone: [N] log-ratios of all ranks' chosen and rejected responses, without gradient.
        own: which of the N are this rank's.
        beta: scale of the log-ratios, > 0, per nat.
        label_smoothing: believed share of flipped labels, in [0, 0.5).

    Returns:
        [B] losses, nats, of the places where the chosen responses stand; log 2 where policy and reference agree.
    """
    chosen, rejected = everyone
    by_chosen = logistic(beta * (ratios.chosen - same_place(chosen, rejected)[own]), label_smoothing)
    by_rejected = logistic(beta * (same_place(rejected, chosen)[own] - ratios.rejected), label_smoothing)
    return value_with_gradient_of(by_chosen, by_chosen + by_rejected)


class AOTUnpaired(AOT):
    """Alignment via Optimal Transport, unpaired.

    When: good and bad responses come from different prompts, or pairs are no more than two sets.

    Args:
        beta: scale of the log-ratios; larger stays closer to the reference.
        label_smoothing: share of labels believed flipped; 0 is the paper's loss.
    """

    def losses(self, policy: PairLogps, reference: PairLogps) -> Tensor:
        """Losses [B] of the pairs, nats; all ranks call this together."""
        ratios = policy.logratios(reference)
        chosen, own = over_ranks(ratios.chosen)
        rejected, _ = over_ranks(ratios.rejected)
        return aot_unpaired_loss(ratios, (chosen, rejected), own, self.beta, self.label_smoothing)
