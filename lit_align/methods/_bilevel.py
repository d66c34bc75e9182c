"""SPO, Jian et al. 2025: what it adds to a method on pairs. Files that begin with an underscore are no methods."""

from __future__ import annotations

from typing import Any, Literal

import torch
from torch import Tensor

from lit_align.core.batch import Example
from lit_align.core.errors import ConfigError
from lit_align.core.kinds import Losses, PairwiseModule, as_terms
from lit_align.core.metrics import over_ranks
from lit_align.core.outputs import PairLogps, Per, Term
from lit_align.core.ranges import finite, not_negative
from lit_align.core.running import RunningMean
from lit_align.core.side_pass import score_responses
from lit_align.data.lookup import training_data
from lit_align.functional.pairwise import value_with_gradient_of

_PROBED = 256
"""Rows of the training data of which the initial policy's negative log-likelihood is taken."""

Penalty = Literal["linear", "hinge", "squared_hinge"]
Reduction = Literal["token_mean", "sequence_mean"]


class Bilevel(PairwiseModule):
    """Adds a penalty on the chosen responses' negative log-likelihood G to the losses of the class that follows it.

    The penalty is rho * (G - v_hat) if linear, rho * max(0, G - v_hat - slack) as a hinge, or rho times the hinge's
    square. Linear, it is an SFT term with a shift, exact over ranks and accumulation. Hinges need G of the whole batch:
    they pool it over the micro-batches of all ranks, so under accumulation they belong to a micro-batch.

    Args:
        rho: weight of the penalty.
        penalty: linear; or one of the hinges, which act only once G exceeds `v_hat` by `slack`.
        v_hat: what G should be, nats; `initial` takes it from the initial policy on the first 256 training rows when
            training starts (0 where nothing was trained, as in a validation alone).
        slack: by how much G may exceed `v_hat`; not for the linear penalty.
        nll_reduction: token_mean: G is a mean over all chosen tokens; sequence_mean: over responses of their means.
    """

    def __init__(
        self,
        *,
        rho: float = 1.0,
        penalty: Penalty = "linear",
        v_hat: float | Literal["initial"] = "initial",
        slack: float = 0.0,
        nll_reduction: Reduction = "token_mean",
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.rho = not_negative("rho", rho)
        self.penalty, self.slack, self.nll_reduction = penalty, not_negative("slack", slack), nll_reduction
        if penalty == "linear" and slack:
            raise ConfigError(
                "a linear penalty has no slack: it would only shift the loss by a constant",
                got=f"penalty: linear, slack: {slack}",
                fix="leave slack at 0, or set model.penalty to hinge or squared_hinge",
            )
        self.v_hat = None if v_hat == "initial" else finite("v_hat", v_hat)
        self.v_initial = RunningMean()
        """Of one value, nats per token; of none until it is known."""

    def on_fit_start(self) -> None:
        """Measure the initial policy, unless a checkpoint has brought its value along."""
        super().on_fit_start()
        if self.v_hat is None and self.v_initial.count == 0:
            self.v_initial.update(self._initial_nll())

    def losses(self, policy: PairLogps, reference: PairLogps) -> Losses:
        """Losses [B] of the pairs, nats, and the penalty."""
        terms = {
            "preference" if name == "loss" else name: term
            for name, term in as_terms(super().losses(policy, reference)).items()  # type: ignore[safe-super]
        }
        v_hat = self.v_initial.mean if self.v_hat is None else self.v_hat
        if self.penalty == "linear":
            per_token = self.nll_reduction == "token_mean"
            nll = -(policy if per_token else policy.mean()).chosen
            shift = torch.zeros_like(nll) - self.rho * v_hat
            return terms | {
                "nll": Term(self.rho * nll, Per.TOKENS if per_token else Per.EXAMPLES),
                "shift": Term(shift),
            }
        nll, surrogate = pooled_nll(policy, self.nll_reduction)
        excess = (nll - v_hat - self.slack).clamp(min=0)
        if self.penalty == "hinge":
            value, slope = excess, (excess > 0).to(excess)
        else:
            value, slope = excess.square(), 2 * excess
        return terms | {"penalty": Term(self.rho * value_with_gradient_of(value, slope * surrogate))}

    def _initial_nll(self) -> Tensor:
        """G of the policy as it is, on the first training rows; all ranks call this together."""
        store = training_data(self.trainer, f"{type(self).__name__} with v_hat: initial").examples("train")
        scores = score_responses(self, [chosen_of(store[index]) for index in range(min(_PROBED, len(store)))])
        if self.nll_reduction == "token_mean":
            return -scores.sums.sum() / scores.lengths.sum()
        return -(scores.sums / scores.lengths.clamp(min=1)).mean()


def chosen_of(example: Example) -> Example:
    """The example with the chosen response of its first pair alone."""
    chosen = example.pairs[0][0]
    masks = None if example.masks is None else [example.masks[chosen]]
    return Example(example.row, [example.ids[chosen]], [example.prompt_lengths[chosen]], masks)


def pooled_nll(policy: PairLogps, reduction: Reduction) -> tuple[Tensor, Tensor]:
    """Mean negative log-likelihood of the chosen responses over all ranks, which call this together.

    Args:
        policy: summed log-probabilities and lengths, each [B], with gradient.
        reduction: over tokens or over responses.

    Returns:
        The scalar, nats per token, without gradient; and values [B] whose mean over all ranks has its gradient.
    """
    if reduction == "sequence_mean":
        surrogate = -policy.mean().chosen
        return over_ranks(surrogate)[0].mean(), surrogate
    lengths = over_ranks(policy.chosen_lengths)[0]
    surrogate = -policy.chosen * (len(lengths) / lengths.sum())
    return over_ranks(surrogate)[0].mean(), surrogate
