"""What every method's row in `tests/cases/` is put through, as far as it needs no model."""

from __future__ import annotations

import inspect
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

import lit_align
from lit_align.core.batch import Counts, DataKind
from lit_align.core.errors import ConfigError
from lit_align.core.kinds import ListwiseRewardModule, PairwiseRewardModule, RewardModule, as_terms
from lit_align.core.module import AlignmentModule
from lit_align.core.outputs import ListLogps, PairLogps, SequenceLogps, Term, reduce_terms
from tests.cases import CASES, Case, Value
from tests.cases.row import t
from tests.methods.scoring import named_terms

by_slug = pytest.mark.parametrize("case", CASES, ids=lambda case: case.slug)
all_values = pytest.mark.parametrize(
    ("case", "value"),
    [pytest.param(case, value, id=f"{case.slug}-{i}") for case in CASES for i, value in enumerate(case.values)],
)


def build(case: Case, kwargs: dict[str, Any]) -> AlignmentModule:
    """The method, without a model behind it."""
    return getattr(lit_align, case.name)(policy="unused", **kwargs)


POLICY_INPUTS = {
    DataKind.PAIRS: 1, DataKind.UNPAIRED: 1, DataKind.RANKED: 1, DataKind.SCORED: 1, DataKind.DEMONSTRATIONS: 1,
    DataKind.JUDGED: 3, DataKind.PARAPHRASED: 4, DataKind.CONTEXTUAL: 1, DataKind.STEPS: 1, DataKind.RATED: 1,
    DataKind.COMPARISONS: 2,
}  # fmt: skip
"""How many of the arguments of `losses` the policy computes."""
NOT_COMPUTED = ("lengths", "mask", "example")
"""Ends of the names of fields that are not log-probabilities."""

Facts = dict[str, Any]


def policy_inputs(module: AlignmentModule) -> int:
    """How many of the arguments of `losses` carry gradient."""
    return 2 if isinstance(module, PairwiseRewardModule) else POLICY_INPUTS[module.data_kind]


def counts_of(inputs: tuple[Any, ...], module: AlignmentModule, facts: Facts | None = None) -> Counts:
    """Denominators of a batch that holds `inputs`."""
    first = inputs[0]
    if isinstance(first, PairLogps):
        tokens = first.chosen_lengths.sum()
        if module.score_prompts:
            tokens = tokens + first.prompt_lengths.sum()
        close_to = first.chosen_lengths if first.target_lengths is None else first.target_lengths
        return Counts(len(first.chosen), float(tokens), target_tokens=float(close_to.sum()))
    if isinstance(first, SequenceLogps):
        counts = Counts(len(first.sums), float(first.lengths.sum()))
        if module.data_kind is not DataKind.UNPAIRED:
            return counts
        label = inputs[2]
        return counts._replace(undesirable=(~label).sum(), desirable_tokens=(first.lengths * label).sum())
    if isinstance(first, ListLogps):
        return Counts(len(first.sums), float(first.lengths[:, 0].sum()))
    if module.data_kind is DataKind.RATED:
        return Counts(len(first), (~inputs[1].isnan()).sum())
    # Steps, or tokens.
    counts = Counts(len(first), len(first))
    return counts._replace(game=facts["game"].sum()) if facts and "game" in facts else counts


def loss_of(
    case: Case, kwargs: dict[str, Any], inputs: tuple[Any, ...] | None = None, facts: Facts | None = None
) -> torch.Tensor:
    """The reduced loss of a row's inputs."""
    module = build(case, kwargs)
    inputs, facts = case.inputs if inputs is None else inputs, case.facts if facts is None else facts
    torch.manual_seed(0)
    return reduce_terms(named_terms(module, inputs, facts), counts_of(inputs, module, facts))


def of(case: Case, value: Value) -> tuple[tuple[Any, ...], Facts]:
    """Inputs and facts of one value of a row."""
    return value.inputs or case.inputs, case.facts if value.facts is None else value.facts


def mapped(x: Any, change: Callable[[torch.Tensor], torch.Tensor], name: str = "") -> Any:
    """`x` with `change` made to all tensors that a model computes."""
    if isinstance(x, torch.Tensor):
        return change(x) if x.is_floating_point() and not name.endswith(NOT_COMPUTED) else x
    if isinstance(x, tuple):
        names = getattr(x, "_fields", [""] * len(x))
        parts = [mapped(part, change, field) for part, field in zip(x, names, strict=True)]
        return type(x)(*parts) if hasattr(x, "_fields") else tuple(parts)
    return x


def changed(
    case: Case, inputs: tuple[Any, ...], facts: Facts, change: Callable[[torch.Tensor], torch.Tensor]
) -> tuple[tuple[Any, ...], Facts]:
    """Inputs and facts with `change` made to what the policy computes."""
    module = build(case, case.values[0].kwargs)
    number = policy_inputs(module)
    features = getattr(module, "token_features", {})
    return (
        (*(mapped(x, change) for x in inputs[:number]), *inputs[number:]),
        {name: mapped(x, change) if name in features else x for name, x in facts.items()},
    )


def leaves(case: Case, inputs: tuple[Any, ...], facts: Facts) -> tuple[tuple[Any, ...], Facts, list[torch.Tensor]]:
    """Inputs and facts with gradient on what the policy computes, and those tensors."""
    tensors: list[torch.Tensor] = []

    def leaf(x: torch.Tensor) -> torch.Tensor:
        tensors.append(x.detach().clone().requires_grad_())
        return tensors[-1]

    return (*changed(case, inputs, facts, leaf), tensors)


def gradient(tensor: torch.Tensor) -> torch.Tensor:
    """The gradient of a leaf, zeros where the loss does not depend on it."""
    return torch.zeros_like(tensor) if tensor.grad is None else tensor.grad


@all_values
def test_value_is_the_arithmetic_of_its_row(case: Case, value: Value):
    inputs, facts = of(case, value)
    assert loss_of(case, value.kwargs, inputs, facts).item() == pytest.approx(value.loss, rel=1e-9, abs=1e-11)


@all_values
def test_gradient_is_that_of_the_value(case: Case, value: Value):
    if case.stops_gradient:
        pytest.skip("a part of the loss is held constant")
    inputs, facts, tensors = leaves(case, *of(case, value))
    loss_of(case, value.kwargs, inputs, facts).backward()
    for number, tensor in enumerate(tensors):
        for i in range(tensor.numel()):
            ends = []
            for sign in (1, -1):
                step = torch.zeros_like(tensor).flatten()
                step[i] = sign * 1e-6
                order = iter(range(len(tensors)))

                def move(x: torch.Tensor, order=order, step=step, number=number) -> torch.Tensor:
                    return x.detach() + step.view_as(x) if next(order) == number else x.detach()

                ends.append(loss_of(case, value.kwargs, *changed(case, *of(case, value), move)).item())
            slope = (ends[0] - ends[1]) / 2e-6
            assert gradient(tensor).flatten()[i].item() == pytest.approx(slope, rel=1e-5, abs=1e-8)


@by_slug
def test_gradient_raises_what_is_preferred(case: Case):
    if not case.directed:
        pytest.skip("the method promises no direction at these inputs")
    inputs, facts, _ = leaves(case, case.inputs, case.facts)
    loss_of(case, case.values[0].kwargs, inputs, facts).backward()
    module, first = build(case, case.values[0].kwargs), inputs[0]
    if isinstance(first, PairLogps):
        assert (gradient(first.chosen) < 0).all()
        assert (gradient(first.rejected) > 0).all()
    elif isinstance(first, ListLogps):
        assert (gradient(first.sums)[:, 0] < 0).all()
        assert (gradient(first.sums).gather(1, first.mask.sum(1, keepdim=True) - 1) > 0).all()
    elif isinstance(module, ListwiseRewardModule):
        assert (gradient(first)[:, 0] < 0).all()
        assert (gradient(first).gather(1, inputs[2].sum(1, keepdim=True) - 1) > 0).all()
    elif module.data_kind in (DataKind.UNPAIRED, DataKind.STEPS):
        scores = first.sums if isinstance(first, SequenceLogps) else first
        label = inputs[2] if isinstance(first, SequenceLogps) else inputs[1] > 0.5
        assert (gradient(scores)[label] < 0).all()
        assert (gradient(scores)[~label] > 0).all()
    elif isinstance(module, RewardModule):
        assert (gradient(first) < 0).all()
        assert (gradient(inputs[1]) > 0).all()
    else:
        assert (gradient(first.sums) < 0).all()


@by_slug
def test_permuting_the_batch_permutes_the_losses(case: Case):
    def flip(x: Any) -> Any:
        if isinstance(x, tuple):
            return type(x)(*map(flip, x)) if hasattr(x, "_fields") else tuple(map(flip, x))
        return x.flip(0) if isinstance(x, torch.Tensor) and x.ndim else x

    def losses(inputs: tuple[Any, ...], facts: Facts) -> dict[str, Term]:
        torch.manual_seed(0)
        return named_terms(build(case, case.values[0].kwargs), inputs, facts)

    if build(case, {}).data_kind in (DataKind.JUDGED, DataKind.PARAPHRASED):
        pytest.skip("tables of single tokens and of pairs of examples are turned in their own tests")
    straight = losses(case.inputs, case.facts)
    flipped = losses(flip(case.inputs), {name: flip(x) for name, x in case.facts.items()})
    exact = {"rtol": 1e-12, "atol": 1e-12} if case.couples else {"rtol": 0, "atol": 0}
    for name, term in straight.items():
        torch.testing.assert_close(term.values.flip(0), flipped[name].values, **exact)


def backward_is_finite(case: Case, value: Value, inputs: tuple[Any, ...], facts: Facts) -> None:
    """Assert that neither the loss nor its gradient overflows."""
    inputs, facts, tensors = leaves(case, inputs, facts)
    loss = loss_of(case, value.kwargs, inputs, facts)
    loss.backward()
    assert torch.isfinite(loss)
    assert all(torch.isfinite(gradient(tensor)).all() for tensor in tensors)


@by_slug
@pytest.mark.parametrize("scale", [0.0, 1e-9, 1e3, 1e5])
def test_extreme_log_probabilities_stay_finite(case: Case, scale: float):
    backward_is_finite(case, case.values[0], *changed(case, case.inputs, case.facts, lambda x: x * scale))


def _to_dtype(x: Any, dtype: torch.dtype) -> Any:
    if isinstance(x, tuple):
        parts = [_to_dtype(part, dtype) for part in x]
        return type(x)(*parts) if hasattr(x, "_fields") else tuple(parts)
    return x.to(dtype) if isinstance(x, torch.Tensor) and x.is_floating_point() else x


def _far_apart(inputs: tuple[Any, ...], gap: float) -> tuple[Any, ...]:
    """The inputs with the policy's preference `gap` nats away from the reference's; nothing above probability 1."""
    first, *rest = inputs
    if isinstance(first, PairLogps):
        moved: Any = first._replace(chosen=first.chosen + min(gap, 0), rejected=first.rejected - max(gap, 0))
    elif isinstance(first, (SequenceLogps, ListLogps)):
        moved = first._replace(sums=first.sums - abs(gap))
    else:
        moved = first + gap
    return (moved, *rest)


@all_values
@pytest.mark.parametrize("gap", [-5000.0, 0.0, 5000.0])
def test_16_bit_inputs_thousands_of_nats_apart_stay_finite(case: Case, value: Value, gap: float):
    inputs, facts = of(case, value)
    low = {name: _to_dtype(x, torch.bfloat16) for name, x in facts.items()}
    backward_is_finite(case, value, _to_dtype(_far_apart(inputs, gap), torch.bfloat16), low)


@by_slug
def test_docstring_documents_every_argument(case: Case):
    method = getattr(lit_align, case.name)
    own = [p for p in inspect.signature(method.__init__).parameters if p not in ("self", "kwargs")]
    for name in own:
        assert f"{name}:" in inspect.getdoc(method), f"{case.name} does not document {name}"


@by_slug
def test_docstring_says_when_to_use_the_method(case: Case):
    assert "\nWhen: " in inspect.getdoc(getattr(lit_align, case.name))


def _vectors() -> list[dict[str, Any]]:
    return json.loads((Path(__file__).parent / "vectors.json").read_text())


@pytest.mark.parametrize("vector", _vectors(), ids=lambda vector: vector["id"])
def test_published_vectors(vector: dict[str, Any]):
    """Values that were checked against TRL 1.16, the DPO authors' code, HALOs, SimPO's and OpenRLHF's."""
    case = next(case for case in CASES if case.slug == vector["id"].split("/")[0])
    x = {name: t(*values) for name, values in vector["inputs"].items()}
    if case.slug == "kto":
        kl = (x["policy_kl_logps"] - x["ref_kl_logps"]).mean().clamp(min=0)
        n = torch.ones_like(x["labels"])
        inputs = (
            SequenceLogps(x["policy_logps"], n),
            SequenceLogps(x["ref_logps"], n),
            x["labels"].bool(),
            kl,
        )
    elif case.slug == "bradley_terry":
        inputs = (x["chosen"], x["rejected"], x.get("margin"))
    else:
        ones = torch.ones_like(x["policy_chosen_logps"])
        lengths = (x.get("chosen_lengths", ones), x.get("rejected_lengths", ones))
        zero = torch.zeros_like(ones)
        inputs = (
            PairLogps(x["policy_chosen_logps"], x["policy_rejected_logps"], *lengths),
            PairLogps(x.get("ref_chosen_logps", zero), x.get("ref_rejected_logps", zero), *lengths),
        )
    module = build(case, vector["kwargs"])
    terms = as_terms(module.losses(*inputs))
    loss = reduce_terms(terms, counts_of(inputs, module))
    assert loss.item() == pytest.approx(vector["loss"], rel=1e-8)
    if "per_sample" in vector:
        assert terms["loss"].values.tolist() == pytest.approx(vector["per_sample"], rel=1e-8)


def test_log_odds_near_certainty():
    from lit_align.functional.pairwise import log_odds

    assert log_odds(t(-0.0001)).item() - log_odds(t(-2.0)).item() == pytest.approx(11.06487691, rel=1e-9)
    for value in (0.0, -1e-9, -1e-7):
        x = t(value).requires_grad_()
        log_odds(x).backward()
        assert torch.isfinite(x.grad).all()


def test_simpo_refuses_two_margins():
    with pytest.raises(ValueError, match=r"gamma: 1.0 and gamma_beta_ratio: 0.5"):
        lit_align.SimPO(policy="unused", gamma=1.0, gamma_beta_ratio=0.5)


@pytest.mark.parametrize(
    ("name", "kwargs"),
    [
        ("DPO", {"beta": 0.0}), ("DPO", {"label_smoothing": 0.5}), ("IPO", {"beta": -0.1}), ("SimPO", {"gamma": -1.0}),
        ("SimPO", {"nll_weight": -1.0}), ("ORPO", {"beta": 0.0}), ("KTO", {"desirable_weight": -1.0}),
        ("BradleyTerry", {"l2": -0.1}), ("CostModel", {"l2": -0.1}), ("ODIN", {"length_weight": -1.0}),
        ("PairwisePreference", {"label_smoothing": 0.5}), ("EnsembleReward", {"uncertainty_weight": -1.0}),
        ("DPO", {"beta": float("nan")}),
    ],
)  # fmt: skip
def test_settings_out_of_range_are_refused(name, kwargs):
    ((setting, value),) = kwargs.items()
    with pytest.raises(ConfigError, match=rf"(?s){setting}: {value}.*give a number"):
        getattr(lit_align, name)(policy="unused", **kwargs)
