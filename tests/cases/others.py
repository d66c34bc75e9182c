"""Rows of the methods on demonstrations, judgments, paraphrases and rejected responses."""

from __future__ import annotations

from math import exp, log, sqrt

import torch

from lit_align.core.outputs import AlignedLogps, SequenceLogps
from tests.cases.row import P2, S2, Case, Value, in_list, softplus, t

_WITH, _WITHOUT = (0.82, 0.94, 0.76, 0.99, 0.035), (0.03, 0.94, 0.93, 0.99, 0.03)
"""Probabilities of five tokens with a judgment in the prompt and without: it speaks of the first and the last."""
J1 = (
    SequenceLogps(t(sum(map(log, _WITHOUT))), t(5)),
    SequenceLogps(t(sum(map(log, _WITH))), t(5)),
    AlignedLogps(t(*map(log, _WITHOUT)), t(*map(log, _WITH)), torch.zeros(5, dtype=torch.int64)),
    torch.tensor([False]),
)
"""A bad completion."""
J2 = (
    SequenceLogps(t(-3.0, J1[0].sums.item()), t(4, 5)),
    SequenceLogps(t(-3.0, J1[1].sums.item()), t(4, 5)),
    J1[2]._replace(example=torch.ones(5, dtype=torch.int64)),
    torch.tensor([True, False]),
)
"""A good completion, and the bad one."""
_RIGHT = log(0.94) + log(0.93) + log(0.99)
_MLE = -sum(map(log, _WITH)) / 5
_CUT = -(_RIGHT + 0.5 * (0.82 + 0.035) * log(0.97)) / 5 + _MLE

H3 = (
    SequenceLogps(t(-2.0, -5.0, -3.0), t(2, 4, 4)),
    SequenceLogps(t(-4.0, -6.0, -5.0), t(2, 4, 4)),
    torch.tensor([[1.0, 0.0], [0.6, 0.8], [0.0, 1.0]], dtype=torch.float64),
    torch.tensor([[0.5, 1.0], [-1.0, 2.0], [1.0, -0.5]], dtype=torch.float64),
    torch.eye(3, dtype=torch.bool),
)
"""Three prompts with their paraphrases: 1 and 1.5 nats per token, and states of two dimensions."""
_COSINES = [[x / sqrt(5) for x in row] for row in ((1, -1, 2), (2.2, 1, 0.4), (2, 2, -1))]

D3 = (
    in_list(-20.0, -18.0, -25.0, -15.0, lengths=(6, 5, 7, 4)),
    in_list(-21.0, -18.5, -24.0, -14.0, lengths=(6, 5, 7, 4)),
    t(3.0, 2.0, 1.0, 0.0)[None],
)
"""Three samples, log-ratios 1, 0.5 and -1, and a rejected response, log-ratio -1 or, by another reference, -2."""
POSITIVE = {"positive": in_list(0.0, 0.0, 0.0, -13.0, lengths=(6, 5, 7, 4))}


def _contrast(temperature: float, masked: tuple[tuple[int, int], ...] = ()) -> float:
    """Mean cross-entropy of finding the partner, both ways."""
    total = 0.0
    for i in range(3):
        across = sum(exp(_COSINES[i][j] / temperature) for j in range(3) if (i, j) not in masked)
        down = sum(exp(_COSINES[j][i] / temperature) for j in range(3) if (j, i) not in masked)
        total += (log(across) + log(down)) / 2 - _COSINES[i][i] / temperature
    return total / 3


CASES = [
    Case("sft", "SFT", S2, [
        Value({}, (6 + 2) / (3 + 5)),
        Value({"reduction": "sequences"}, (6 / 3 + 2 / 5) / 2),
    ]),
    Case("cut", "CUT", J2, [
        Value({"threshold": 1.1, "alpha": 0.5, "gamma": 1.0}, _CUT, inputs=J1),
        Value(
            {"threshold": 1.1, "alpha": 1.0, "gamma": 0.0, "combine": "mean"},
            (-(_RIGHT + log(0.97) + log(0.97)) / 5 + _MLE) / 2,
            inputs=J1,
        ),
        # 1.2 times likelier is the first token only.
        Value(
            {"threshold": 1.2, "alpha": 0.25, "gamma": 2.0},
            -(_RIGHT + log(0.03) + 0.25 * 0.82**2 * log(0.97)) / 5 + _MLE,
            inputs=J1,
        ),
        Value({"threshold": 1.1, "alpha": 0.5, "gamma": 1.0}, (3 / 4 + _CUT) / 2),
    ], directed=False, stops_gradient=True),  # Its tokens are pushed both ways; which, and how hard, is held constant.
    Case("coin", "CoIN", H3, [
        # The weight makes the contrast count as much as the 2.5 nats of the generation.
        Value({}, 2.5 + 2.5),
        Value({"temperature": 1.0, "contrast_cap": 1.0}, 2.5 + _contrast(1.0)),
        # The first two prompts are one, and no contrast to each other.
        Value(
            {"temperature": 1.0, "contrast_cap": 1.0},
            2.5 + _contrast(1.0, masked=((0, 1), (1, 0))),
            inputs=(*H3[:4], torch.block_diag(torch.ones(2, 2), torch.ones(1, 1)).bool()),
        ),
    # The weight of the contrast passes no gradient, and other prompts are the contrast.
    ], accumulates=False, couples=True, stops_gradient=True),
    Case("d2o", "D2O", D3, [
        Value({"beta": 0.1, "alpha": 0.1}, softplus(-(0.1 * 0.5 / 3 + 0.1 * 2)), facts=POSITIVE),
        Value({"beta": 0.5, "alpha": 0.25}, softplus(-(0.5 * 0.5 / 3 + 0.25 * 2)), facts=POSITIVE),
        Value({"beta": 0.5, "alpha": 0.25}, softplus(-(0.5 * 0.5 / 3 + 0.25 * 1))),
    ]),
    Case("una_pair", "UNAPair", P2, [
        Value({}, (softplus(-0.03 * 1.25) + softplus(0.03 * 1.0)) / 2),
    ]),
    # The loss is the divergence, which the core computes; it does not depend on the tokens' own likelihoods.
    Case("context_distillation", "ContextDistillation", (*S2, SequenceLogps(t(-4.0, -1.5), t(3, 5))), [
        Value({}, (0.7 + 1.5) / (3 + 5)),
        Value({"top_k": 2}, (0.7 + 1.5) / (3 + 5)),
    ], facts={"divergence": t(0.7, 1.5)}, directed=False),
    # Without a policy behind it there are no adapters to keep sparse; tests/methods/test_paft.py has some.
    Case("paft", "SparseSFT", S2, [
        Value({}, (6 + 2) / (3 + 5)),
        Value({"reduction": "sequences"}, (6 / 3 + 2 / 5) / 2),
    ], shards=False),
]  # fmt: skip
