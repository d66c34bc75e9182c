"""Rows of reward models: on scores of responses, of tokens and of steps, and on predicted ratings."""

from __future__ import annotations

from math import log, nan, sqrt

import torch

from tests.cases.row import Case, Value, smooth, softplus, t

R3 = (t(1.2, -0.3, 2.0), t(0.5, 0.1, 2.0))
"""Scores of three chosen and three rejected responses; differences 0.7, -0.4 and 0."""
_R3 = (softplus(-0.7) + softplus(0.4) + log(2)) / 3
_L2 = (1.2**2 + 0.3**2 + 2**2 + 0.5**2 + 0.1**2 + 2**2) / 6

K3 = (
    torch.tensor([[1.0, 0.4, -0.2, 0.0], [0.3, 0.5, -1.0, -1.2]], dtype=torch.float64),
    torch.tensor([[3.0, 2.0, 1.0, 0.0], [3.0, 2.0, 2.0, 1.0]], dtype=torch.float64),
    torch.tensor([[True, True, True, False], [True] * 4]),
)
"""A list of three, and one of four of which the second and the third are tied."""
_FIRST = (2 * softplus(-0.6) + softplus(-1.2)) / 3
_UNTIED = softplus(0.2) + softplus(-1.3) + softplus(-1.5) + softplus(-1.7) + softplus(-0.2)

B4 = (t(0.8, -0.2, 0.1, 0.4), torch.tensor([True, True, False, False]))
"""Two good responses and two bad ones."""
_B4 = (softplus(-0.8) + softplus(0.2) + softplus(0.1) + softplus(0.4)) / 4

H2 = (
    torch.tensor([[3.1, 2.8, 3.9, 1.2, 1.6], [0.4, 1.0, 2.5, 2.0, 3.0]], dtype=torch.float64),
    torch.tensor([[3.0, 3.0, 4.0, 1.0, 2.0], [1.0, 0.0, 3.0, 2.0, nan]], dtype=torch.float64),
)
"""Predicted and given ratings of two responses; one is missing."""

C2 = (t(0.9, 0.2), t(-0.4, 0.7))
"""Log-odds that the first response is better, of two pairs in both orders; the second pair's model likes the first."""

P4 = (t(1.2, 1.2, -1.5, -0.5), t(1, 1, 0, 1))
"""Log-odds of four steps, and whether they are right."""

_PLACES = torch.tensor([False, False, True, True, True, False])
T1 = (
    torch.tensor([[0.1, 0.2, 0.5, 0.6, 0.9, 0.3]], dtype=torch.float64),
    torch.tensor([[0.1, 0.2, -0.1, 0.2, 0.4, 0.05]], dtype=torch.float64),
    _PLACES[None] & torch.tensor([True, True, True, True, False, False]),
)
"""Scores of the tokens of a pair that differs from the third on; the rejected response has four."""
TO_THE_LONGER_END = (*T1[:2], _PLACES[None])
"""The same as other libraries have it: to the end of the chosen response, where the rejected one is padding."""

E3 = (
    torch.tensor([[1.2, 0.4], [-0.3, 0.9], [2.0, 1.0]], dtype=torch.float64),
    torch.tensor([[0.5, 0.1], [0.1, 0.2], [2.5, 0.0]], dtype=torch.float64),
)
"""Scores of three pairs by two members; differences 0.7, -0.4, -0.5 and 0.3, 0.7, 1."""

S2 = (t(-1.2, 0.4), t(0.5, 1.5))
"""Costs of the safer and of the less safe responses of two pairs."""
SAFETY = {"chosen_safe": torch.tensor([True, False]), "rejected_safe": torch.tensor([False, False])}

O2 = (
    torch.tensor([[1.0, 0.8], [0.2, 0.5]], dtype=torch.float64),
    torch.tensor([[0.4, 0.1], [-0.3, 0.3]], dtype=torch.float64),
)
"""Quality and length by the two heads, of two pairs."""
LENGTHS = {"chosen_lengths": torch.tensor([120, 90]), "rejected_lengths": torch.tensor([40, 70])}
# The rows (0.2, -0.1, 0.4, 0.3) and (0.1, 0.5, -0.2, 0.3) less their means: (0, -3, 2, 1) / 10, (-3, 13, -15, 5) / 40.
_OVERLAP = (3 * 13 + 2 * 15 - 5) / sqrt((9 + 4 + 1) * (9 + 169 + 225 + 25))
_RANKED = (softplus(-1.3) + softplus(-0.7)) / 2


def _correlation(values: tuple[float, ...], others: tuple[float, ...]) -> float:
    """Pearson's."""
    one, two = ([x - sum(xs) / len(xs) for x in xs] for xs in (values, others))
    product = sum(a * b for a, b in zip(one, two, strict=True))
    return product / sqrt(sum(a * a for a in one) * sum(b * b for b in two))


_OF_QUALITY = _correlation((1.0, 0.2, 0.4, -0.3), (120, 90, 40, 70))
_OF_LENGTH = _correlation((0.8, 0.5, 0.1, 0.3), (120, 90, 40, 70))

CASES = [
    Case("bradley_terry", "BradleyTerry", R3, [
        Value({"use_margin": False}, _R3),
        Value({}, (softplus(3 - 0.7) + softplus(1 + 0.4) + log(2)) / 3),
        Value({"use_margin": False, "center": 0.01}, _R3 + 0.01 * (1.7**2 + 0.2**2 + 4**2) / 3),
        Value({"use_margin": False, "l2": 0.001}, _R3 + 0.001 * _L2),
        # Far apart the wrong way, where log(1 + exp(x)) overflows.
        Value({}, 800.0, inputs=(t(-400.0), t(400.0)), facts={}),
        Value({}, _R3, facts={}),
        Value(
            {"center": 0.1},
            (2 * softplus(-0.7) + 0.5 * log(2) + 0.1 * (2 * 1.7**2 + 0.5 * 4**2)) / 3,
            facts={"weight": t(2.0, 0.0, 0.5)},
        ),
    ], facts={"margin": t(3.0, 1.0, 0.0)}),
    Case("soft_reward", "SoftReward", R3, [
        # Differences 0.7, -0.4 and 0.
        Value({}, (smooth(0.7, 0.1) + smooth(-0.4, 0.4) + log(2)) / 3),
        Value(
            {"center": 0.01},
            (smooth(0.7, 0.1) + smooth(-0.4, 0.4) + log(2)) / 3 + 0.01 * (1.7**2 + 0.2**2 + 4**2) / 3,
        ),
        # Sure labels are Bradley and Terry's.
        Value({}, _R3, facts={"label_probability": t(1.0, 1.0, 1.0)}),
    ], facts={"label_probability": t(0.9, 0.6, 0.75)}),
    Case("adversarial_reward", "AdversarialReward", R3, [
        # The second pair is the game's.
        Value({}, (softplus(-0.7) + log(2)) / 2 + 0.1 * softplus(0.4)),
        Value({"human_weight": 0.5, "game_weight": 2.0}, 0.5 * (softplus(-0.7) + log(2)) / 2 + 2 * softplus(0.4)),
        Value({}, 0.4185083644, (t(0.9, 1.2), t(0.1, 0.7)), {"game": torch.tensor([False, True])}),
        # Only one sort of pairs.
        Value({}, _R3, facts={"game": torch.tensor([False] * 3)}),
        Value({}, 0.1 * _R3, facts={"game": torch.tensor([True] * 3)}),
    ], facts={"game": torch.tensor([False, True, False])}),
    Case("margin_reward", "MarginReward", R3, [
        Value({"margins": "large"}, (softplus(3 - 0.7) + softplus(1 + 0.4) + log(2)) / 3),
        Value({"margins": "small"}, (softplus(1 - 0.7) + softplus(1 / 3 + 0.4) + log(2)) / 3),
        Value({"margins": "data"}, (softplus(3.5 - 0.7) + softplus(1.2 + 0.4) + softplus(0.9)) / 3),
        # By these levels the first is better, the second and the third are slightly better.
        Value({"levels": (0.5, 2.0, 4.0)}, (softplus(2 - 0.7) + softplus(1 + 0.4) + softplus(1)) / 3),
        Value(
            {"center": 0.01, "l2": 0.001},
            (softplus(3 - 0.7) + softplus(1 + 0.4) + log(2)) / 3 + 0.01 * (1.7**2 + 0.2**2 + 4**2) / 3 + 0.001 * _L2,
        ),
    ], facts={"margin": t(3.5, 1.2, 0.9)}),
    Case("kwise_reward", "KWiseReward", K3, [
        Value({}, (_FIRST + _UNTIED / 5) / 2),
        # Without ties: the second list has one pair more.
        Value({}, (_FIRST + (_UNTIED + softplus(-1.5)) / 6) / 2, inputs=(
            K3[0],
            torch.tensor([[3.0, 2.0, 1.0, 0.0], [4.0, 3.0, 2.0, 1.0]], dtype=torch.float64),
            K3[2],
        )),
        # All of the second list's are tied.
        Value({}, _FIRST / 2, inputs=(
            K3[0],
            torch.tensor([[3.0, 2.0, 1.0, 0.0], [2.0, 2.0, 2.0, 2.0]], dtype=torch.float64),
            K3[2],
        )),
    ]),
    Case("binary_preference", "BinaryPreference", B4, [Value({}, _B4)]),
    Case("outcome_reward", "OutcomeReward", B4, [
        Value({}, _B4),
        Value({"every_token": False}, _B4),
    ]),
    # A pair as good_bad_pairs makes two of it: GOOD: A above BAD: A, and BAD: B above GOOD: B.
    Case("preference_pretraining", "PreferencePretraining", (t(1.1, 0.6), t(0.2, -0.3)), [
        Value({}, softplus(-0.9)),
    ]),
    Case("regression_reward", "RegressionReward", H2, [
        Value({}, (0.01 + 0.04 + 0.01 + 0.04 + 0.16 + 0.36 + 1 + 0.25 + 0) / 9),
        Value({"weights": "mean"}, 1.87 / 9),
        # Before any training, the standard deviations are taken to be 1.
        Value({"standardise": True}, 1.87 / 9),
    # Ratings pull predictions up and down; with standard deviations it is another batch that they are of.
    ], directed=False),
    Case("pairwise_preference", "PairwisePreference", C2, [
        Value({}, (softplus(-0.9) + softplus(-0.4) + softplus(-0.2) + softplus(0.7)) / 4),
        Value({}, (softplus(-0.9) + softplus(-0.4)) / 2, inputs=(t(0.9), t(-0.4))),
        Value(
            {"label_smoothing": 0.25},
            0.75 * (softplus(-0.9) + softplus(-0.4)) / 2 + 0.25 * (softplus(0.9) + softplus(0.4)) / 2,
            inputs=(t(0.9), t(-0.4)),
        ),
    ]),
    Case("process_reward", "ProcessReward", P4, [
        Value({}, (softplus(-1.2) + softplus(-1.2) + softplus(-1.5) + softplus(0.5)) / 4),
        Value(
            {},
            (0.75 * softplus(-1.2) + 0.25 * softplus(1.2) + softplus(1.5)) / 2,
            inputs=(t(1.2, -1.5), t(0.75, 1.0)),
        ),
    ]),
    Case("token_reward", "TokenReward", T1, [
        Value({}, (softplus(-0.6) + softplus(-0.4)) / 2),
        Value(
            {"l2": 0.001},
            (softplus(-0.6) + softplus(-0.4)) / 2 + 0.001 * (0.5**2 + 0.1**2 + 0.6**2 + 0.2**2) / 4,
        ),
        Value({}, (softplus(-0.6) + softplus(-0.4) + softplus(-0.5)) / 3, inputs=TO_THE_LONGER_END),
        Value(
            {"l2": 0.001},
            (softplus(-0.6) + softplus(-0.4) + softplus(-0.5)) / 3
            + 0.001 * (0.5**2 + 0.1**2 + 0.6**2 + 0.2**2 + 0.9**2 + 0.4**2) / 6,
            inputs=TO_THE_LONGER_END,
        ),
        Value({}, 0.0, inputs=(*T1[:2], torch.zeros_like(T1[2]))),
    # What both responses begin with is not trained.
    ], directed=False),
    Case("reward_ensemble", "EnsembleReward", E3, [
        Value(
            {"members": 2, "bootstrap": False},
            (softplus(-0.7) + softplus(-0.3) + softplus(0.4) + softplus(-0.7) + softplus(0.5) + softplus(-1)) / 6,
        ),
        # With this seed the rows are drawn 1, 0 and 2 times by the first member, 2, 2 and 0 times by the second.
        Value(
            {"members": 2, "bootstrap_seed": 5},
            (softplus(-0.7) + 2 * softplus(0.5) + 2 * softplus(-0.3) + 2 * softplus(-0.7)) / 6,
        ),
    ], facts={"source_rows": torch.tensor([1, 2, 3])}),
    Case("odin", "ODIN", O2, [
        Value({}, _RANKED + abs(_OF_QUALITY) + 1 - _OF_LENGTH + _OVERLAP),
        Value(
            {"length_weight": 0.5, "overlap_weight": 0.25},
            _RANKED + 0.5 * (abs(_OF_QUALITY) + 1 - _OF_LENGTH) + 0.25 * _OVERLAP,
        ),
        # All responses are equally long: there is no correlation.
        Value({}, _RANKED + _OVERLAP, facts={
            "chosen_lengths": torch.tensor([50, 50]), "rejected_lengths": torch.tensor([50, 50]),
            "overlap": t(_OVERLAP).squeeze(),
        }),
        Value({"overlap_weight": 0.0}, _RANKED + abs(_OF_QUALITY) + 1 - _OF_LENGTH),
    # Correlations are those of a batch, and quality is pushed away from length, whatever the preferences say.
    ], facts={**LENGTHS, "overlap": t(_OVERLAP).squeeze()}, accumulates=False, couples=True, directed=False),
    Case("cost_model", "CostModel", S2, [
        Value({}, (softplus(-1.7) + softplus(-1.2) + softplus(-0.5) + softplus(-1.1) + softplus(-0.4) + softplus(-1.5))
              / 2),
        Value(
            {"l2": 0.1},
            (softplus(-1.7) + softplus(-1.2) + softplus(-0.5) + softplus(-1.1) + softplus(-0.4) + softplus(-1.5)) / 2
            + 0.1 * (1.2**2 + 0.4**2 + 0.5**2 + 1.5**2) / 4,
        ),
    # Costs: the chosen response's is pushed down, unless it is unsafe itself.
    ], facts=SAFETY, directed=False),
]  # fmt: skip
