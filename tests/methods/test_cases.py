"""What every method's row in `tests/cases.py` is put through, as far as it needs no model."""

from __future__ import annotations

import inspect
import json
from pathlib import Path
from typing import Any

import pytest
import torch

import lit_align
from lit_align.core.batch import Counts
from lit_align.core.errors import ConfigError
from lit_align.core.kinds import as_terms
from lit_align.core.module import AlignmentModule
from lit_align.core.outputs import PairLogps, SequenceLogps, reduce_terms
from tests.cases import CASES, Case, Value, t

by_slug = pytest.mark.parametrize("case", CASES, ids=lambda case: case.slug)
all_values = pytest.mark.parametrize(
    ("case", "value"),
    [pytest.param(case, value, id=f"{case.slug}-{i}") for case in CASES for i, value in enumerate(case.values)],
)


def build(case: Case, kwargs: dict[str, Any]) -> AlignmentModule:
    """The method, without a model behind it."""
    return getattr(lit_align, case.name)(policy="unused", **kwargs)


def counts_of(inputs: tuple[Any, ...], module: AlignmentModule) -> Counts:
    """Denominators of a batch that holds `inputs`."""
    first = inputs[0]
    if isinstance(first, PairLogps):
        tokens = first.chosen_lengths.sum()
        if module.score_prompts:
            tokens = tokens + first.prompt_lengths.sum()
        return Counts(len(first.chosen), float(tokens))
    if isinstance(first, SequenceLogps):
        return Counts(len(first.sums), float(first.lengths.sum()))
    return Counts(len(first), 0)


def loss_of(case: Case, kwargs: dict[str, Any], inputs: tuple[Any, ...] | None = None) -> torch.Tensor:
    """The reduced loss of a row's inputs."""
    module = build(case, kwargs)
    inputs = case.inputs if inputs is None else inputs
    return reduce_terms(as_terms(module.losses(*inputs)), counts_of(inputs, module))


def leaves(inputs: tuple[Any, ...]) -> tuple[tuple[Any, ...], list[torch.Tensor]]:
    """The inputs with gradient on what the policy computes, and those tensors."""
    first = inputs[0]
    if isinstance(first, PairLogps):
        first = first._replace(
            chosen=first.chosen.clone().requires_grad_(), rejected=first.rejected.clone().requires_grad_()
        )
        return (first, *inputs[1:]), [first.chosen, first.rejected]
    if isinstance(first, SequenceLogps):
        first = first._replace(sums=first.sums.clone().requires_grad_())
        return (first, *inputs[1:]), [first.sums]
    chosen, rejected = first.clone().requires_grad_(), inputs[1].clone().requires_grad_()
    return (chosen, rejected, *inputs[2:]), [chosen, rejected]


@all_values
def test_value_is_the_arithmetic_of_its_row(case: Case, value: Value):
    assert loss_of(case, value.kwargs, value.inputs).item() == pytest.approx(value.loss, rel=1e-12)


@all_values
def test_gradient_is_that_of_the_value(case: Case, value: Value):
    inputs, tensors = leaves(value.inputs or case.inputs)
    loss_of(case, value.kwargs, inputs).backward()
    for tensor in tensors:
        for i in range(len(tensor)):
            step = torch.zeros_like(tensor)
            step[i] = 1e-6
            with torch.no_grad():
                ends = []
                for sign in (1, -1):
                    moved = [x + sign * step if x is tensor else x for x in tensors]
                    ends.append(loss_of(case, value.kwargs, _with(inputs, moved)).item())
            assert tensor.grad[i].item() == pytest.approx((ends[0] - ends[1]) / 2e-6, rel=1e-5, abs=1e-8)


def _with(inputs: tuple[Any, ...], tensors: list[torch.Tensor]) -> tuple[Any, ...]:
    first = inputs[0]
    if isinstance(first, PairLogps):
        return (first._replace(chosen=tensors[0], rejected=tensors[1]), *inputs[1:])
    if isinstance(first, SequenceLogps):
        return (first._replace(sums=tensors[0]), *inputs[1:])
    return (*tensors, *inputs[2:])


@by_slug
def test_gradient_raises_what_is_preferred(case: Case):
    inputs, tensors = leaves(case.inputs)
    loss_of(case, case.values[0].kwargs, inputs).backward()
    if len(tensors) == 2:
        assert (tensors[0].grad < 0).all()
        assert (tensors[1].grad > 0).all()
    elif case.slug == "kto":
        label = case.inputs[2]
        assert (tensors[0].grad[label] < 0).all()
        assert (tensors[0].grad[~label] > 0).all()
    else:
        assert (tensors[0].grad < 0).all()


@by_slug
def test_permuting_the_batch_permutes_the_losses(case: Case):
    module = build(case, case.values[0].kwargs)

    def flip(x: Any) -> Any:
        if isinstance(x, tuple):
            return type(x)(*map(flip, x)) if hasattr(x, "_fields") else tuple(map(flip, x))
        return x.flip(0) if isinstance(x, torch.Tensor) and x.ndim else x

    straight = as_terms(module.losses(*case.inputs))
    flipped = as_terms(module.losses(*map(flip, case.inputs)))
    for name, term in straight.items():
        torch.testing.assert_close(term.values.flip(0), flipped[name].values, rtol=0, atol=0)


@by_slug
@pytest.mark.parametrize("scale", [0.0, 1e-9, 1e3, 1e5])
def test_extreme_log_probabilities_stay_finite(case: Case, scale: float):
    def stretch(x: Any) -> Any:
        if isinstance(x, PairLogps):
            return x._replace(chosen=x.chosen * scale, rejected=x.rejected * scale / 2)
        if isinstance(x, SequenceLogps):
            return x._replace(sums=x.sums * scale)
        return x * scale if case.slug == "bradley_terry" else x

    inputs, tensors = leaves(tuple(stretch(x) for x in case.inputs))
    loss = loss_of(case, case.values[0].kwargs, inputs)
    loss.backward()
    assert torch.isfinite(loss)
    assert all(torch.isfinite(tensor.grad).all() for tensor in tensors)


def _far_apart(inputs: tuple[Any, ...], gap: float) -> tuple[Any, ...]:
    """The inputs with the policy's preference `gap` nats away from the reference's; nothing above probability 1."""
    first, *rest = inputs
    if isinstance(first, PairLogps):
        moved = first._replace(chosen=first.chosen + min(gap, 0), rejected=first.rejected - max(gap, 0))
    elif isinstance(first, SequenceLogps):
        moved = first._replace(sums=first.sums - abs(gap))
    else:
        moved = first + gap
    return (moved, *rest)


def _to_dtype(x: Any, dtype: torch.dtype) -> Any:
    if isinstance(x, tuple):
        parts = [_to_dtype(part, dtype) for part in x]
        return type(x)(*parts) if hasattr(x, "_fields") else tuple(parts)
    return x.to(dtype) if isinstance(x, torch.Tensor) and x.is_floating_point() else x


@all_values
@pytest.mark.parametrize("gap", [-5000.0, 0.0, 5000.0])
def test_16_bit_inputs_thousands_of_nats_apart_stay_finite(case: Case, value: Value, gap: float):
    inputs, tensors = leaves(_to_dtype(_far_apart(value.inputs or case.inputs, gap), torch.bfloat16))
    loss = loss_of(case, value.kwargs, inputs)
    loss.backward()
    assert torch.isfinite(loss)
    assert all(torch.isfinite(tensor.grad).all() for tensor in tensors)


@by_slug
def test_docstring_documents_every_argument(case: Case):
    method = getattr(lit_align, case.name)
    own = [p for p in inspect.signature(method.__init__).parameters if p not in ("self", "kwargs")]
    for name in own:
        assert f"{name}:" in inspect.getdoc(method), f"{case.name} does not document {name}"


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
        ("BradleyTerry", {"l2": -0.1}), ("DPO", {"beta": float("nan")}),
    ],
)  # fmt: skip
def test_settings_out_of_range_are_refused(name, kwargs):
    ((setting, value),) = kwargs.items()
    with pytest.raises(ConfigError, match=rf"(?s){setting}: {value}.*give a number"):
        getattr(lit_align, name)(policy="unused", **kwargs)
