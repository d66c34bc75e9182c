"""What a row says of a method, the inputs that rows share, and the functions that their arithmetic is written with.

P2 is two pairs (log-ratio gaps 1.25 and -1.0), T2 two pairs without a reference, A3 three pairs, K4 four labelled
completions (log-ratios 1, -0.5, 0.25, 1; KL estimate 0.25), L4 a list of four, Q3 a list of three.
"""

from __future__ import annotations

from math import exp, log
from typing import Any, NamedTuple

import torch

from lit_align.core.outputs import ListLogps, PairLogps, SequenceLogps


def t(*values: float) -> torch.Tensor:
    """A float64 vector."""
    return torch.tensor(values, dtype=torch.float64)


def softplus(x: float) -> float:
    """log(1 + exp(x)) = -log sigmoid(-x)."""
    return log(1 + exp(x))


def sigmoid(x: float) -> float:
    """1 / (1 + exp(-x))."""
    return 1 / (1 + exp(-x))


def smooth(gap: float, eps: float) -> float:
    """Loss of a pair of which the label is believed flipped with probability `eps`."""
    return (1 - eps) * softplus(-gap) + eps * softplus(gap)


def log_odds(mean_logp: float) -> float:
    """log(p / (1 - p))."""
    return mean_logp - log(1 - exp(mean_logp))


def in_list(*values: float, lengths: tuple[int, ...] | None = None) -> ListLogps:
    """One list of responses."""
    sums = t(*values)[None]
    count = t(*(lengths or [1] * len(values)))[None]
    return ListLogps(sums, count, torch.ones_like(sums, dtype=torch.bool))


P2 = (
    PairLogps(t(-12.5, -20.25), t(-15.0, -18.75), t(5, 8), t(6, 4)),
    PairLogps(t(-13.0, -19.5), t(-14.25, -19.0), t(5, 8), t(6, 4)),
)
"""Two pairs under the policy and the reference: summed log-probabilities and lengths."""
P2_ALONE = (P2[0], PairLogps(t(0.0, 0.0), t(0.0, 0.0), t(5, 8), t(6, 4)))
"""The same without a reference."""
T2 = (
    PairLogps(t(-4.5, -5.0), t(-5.0, -4.5), t(5, 3), t(3, 4), prompt=t(-3.0, -1.0), prompt_lengths=t(2, 3)),
    PairLogps(t(0.0, 0.0), t(0.0, 0.0), t(5, 3), t(3, 4)),
)
"""Two pairs without a reference; mean log-probabilities -0.9, -5/3 (chosen) and -5/3, -1.125 (rejected)."""
A3 = (
    PairLogps(t(-8.0, -11.5, -20.0), t(-9.5, -10.0, -26.0), t(4, 5, 8), t(4, 6, 9)),
    PairLogps(t(-8.5, -10.5, -21.0), t(-9.0, -10.5, -24.0), t(4, 5, 8), t(4, 6, 9)),
)
"""Three pairs; log-ratios 0.5, -1, 1 (chosen) and -0.5, 0.5, -2 (rejected)."""
K4 = (
    SequenceLogps(t(-10.0, -12.0, -8.0, -9.5), t(3, 4, 2, 5)),
    SequenceLogps(t(-11.0, -11.5, -8.25, -10.5), t(3, 4, 2, 5)),
    torch.tensor([True, False, True, False]),
    t(0.25).squeeze(),
)
"""Four completions, their reference, their labels, and the KL estimate."""
K4_NO_KL = (*K4[:3], t(0.0).squeeze())
"""The same for methods that ask for no KL estimate."""
L4 = (
    in_list(-10.0, -12.0, -9.0, -15.0, lengths=(5, 4, 6, 3)),
    in_list(-11.0, -11.0, -9.5, -14.0, lengths=(5, 4, 6, 3)),
    t(8.0, 6.0, 3.0, 1.0)[None],
)
"""A list of four; log-ratios 1, -1, 0.5, -1."""
S2 = (SequenceLogps(t(-6.0, -2.0), t(3, 5)),)
"""Two texts of 3 and 5 tokens."""


class Value(NamedTuple):
    """A loss under given constructor arguments."""

    kwargs: dict[str, Any]
    loss: float
    inputs: tuple[Any, ...] | None = None
    """Inputs that differ from the row's."""
    facts: dict[str, Any] | None = None
    """Facts that differ from the row's."""


class Case(NamedTuple):
    """One method."""

    slug: str
    """File in lit_align/methods and configs."""
    name: str
    """Class."""
    inputs: tuple[Any, ...]
    """Positional arguments of `losses`."""
    values: list[Value]
    facts: dict[str, Any] = {}  # noqa: RUF012 - never mutated
    """Keyword arguments of `losses`: what `reads` and `token_features` of the class name."""
    accumulates: bool = True
    """Whether the loss of k micro-batches is that of one k times as large; else say why in a comment."""
    couples: bool = False
    """Whether an example's loss depends on the others of its batch."""
    directed: bool = True
    """Whether, at the row's inputs, each chosen response is pushed up and each rejected one down."""
    stops_gradient: bool = False
    """Whether a part of the loss passes no gradient although it depends on the policy."""
    learns: bool = True
    """Whether a few steps on one batch lower the loss; not where its target moves."""
    per_token: bool = False
    """Whether the metrics' rewards are of means per token."""
    training: dict[str, Any] = {}  # noqa: RUF012 - never mutated
    """Arguments of the class for the tests that train, where its defaults do not suit a tiny model."""
    shards: bool = True
    """Whether the method works on sharded weights (FSDP2); else it refuses them."""
