"""What single reward models promise beyond their rows: scores of responses, weights of pairs, statistics, metrics."""

from __future__ import annotations

import json
import math
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from transformers import LlamaForTokenClassification

import lit_align
from lit_align import Trainer
from lit_align.core.batch import DataKind, Example, Layout, RatedBatch, StepBatch
from lit_align.core.errors import ConfigError
from lit_align.core.kinds.verdicts import aggregated
from lit_align.core.layout import build_rows
from lit_align.core.module import AlignmentModule
from lit_align.core.outputs import reduce_terms
from lit_align.functional.rewards import bootstrap_counts, correlation
from tests.cases.rewards import E3, H2, LENGTHS, O2, R3, S2, SAFETY
from tests.cases.row import sigmoid, softplus, t
from tests.helpers import build_tiny_tokenizer
from tests.methods.scoring import collated, make_examples, ready, scored


class Says(nn.Module):
    """A policy that says given numbers of whatever it is given."""

    def __init__(self, outputs: Tensor) -> None:
        super().__init__()
        self.outputs = outputs

    def forward(self, rows: Any, *, every_token: bool = False) -> Tensor:
        return self.outputs


def saying(name: str, outputs: Tensor, **kwargs: Any) -> AlignmentModule:
    """A method with such a policy."""
    module = getattr(lit_align, name)(policy="unused", **kwargs)
    module.policy = Says(outputs)
    return module


def rows_of(*masks: list[int]) -> Any:
    """Rows of responses of which some tokens are scored."""
    examples = [Example(n, [[5, 6, *range(10, 10 + len(mask))]], [2], [mask]) for n, mask in enumerate(masks, 1)]
    return build_rows(examples, Layout.PACKED)


# -------------------------------------------------------------------- steps

LOGITS = torch.tensor([[0.2, 1.4], [-0.3, 0.9], [1.0, -0.5], [0.6, 0.1]], dtype=torch.float64)
"""Of wrong and right, after the three steps of one solution and the one step of another."""


@pytest.fixture
def solutions() -> StepBatch:
    return StepBatch(rows_of([0, 1, 0, 1, 0, 1], [0, 1]), t(1, 1, 0, 1), torch.tensor([1, 2]))


@pytest.mark.parametrize(("per_solution", "loss"), [(False, 0.42551379921), (True, 0.6083681942)])
def test_steps_or_solutions_count_alike(per_solution, loss, solutions):
    module = saying("ProcessReward", LOGITS, per_solution=per_solution)
    assert reduce_terms(module.terms(solutions), solutions.counts()).item() == pytest.approx(loss, rel=1e-9)
    metrics = module.meter.compute()
    assert metrics["accuracy"] == 0.75
    assert metrics["accuracy/right_steps"] == pytest.approx(2 / 3)
    assert metrics["accuracy/wrong_steps"] == 1.0


@pytest.mark.parametrize(
    ("how", "score"),
    [("product", 0.107746049671), ("minimum", 0.182425523806), ("last", 0.182425523806), ("mean", 0.573158363601)],
)
def test_the_score_of_a_solution(how, score, solutions):
    scores = saying("ProcessReward", LOGITS, aggregate=how).score_responses(solutions.rows)
    assert scores.tolist() == pytest.approx([score, 0.377540668798], rel=1e-9)


def test_a_product_of_many_steps_does_not_vanish_in_between():
    probabilities = torch.full((400,), 0.5, dtype=torch.float64)
    assert aggregated(probabilities, "product").item() == pytest.approx(0.5**400, rel=1e-9)
    assert aggregated(torch.zeros(2, dtype=torch.float64), "product") == 0


def test_the_loss_of_steps_is_that_of_transformers(tiny_model_dir):
    """Whose token classifiers, like TRL's process reward models, take labels of -100 where there is none."""
    module = ready("ProcessReward", tiny_model_dir)
    hard = [
        example._replace(step_labels=[round(label) for label in example.step_labels])
        for example in make_examples(DataKind.STEPS)
    ]
    ours = scored(module, collated(module, hard, Layout.SHARED)).loss
    model = module.policy.model.eval()
    assert isinstance(model, LlamaForTokenClassification)
    width = max(len(example.ids[0]) for example in hard)
    ids, labels = torch.zeros(2, len(hard), width, dtype=torch.int64)
    labels -= 100
    for row, example in enumerate(hard):
        ids[row, : len(example.ids[0])] = torch.tensor(example.ids[0])
        ends = [place for place, end in enumerate(example.masks[0]) if end]
        labels[row, torch.tensor(ends) + example.prompt_lengths[0]] = torch.tensor(example.step_labels)
    with module.policy.plain():
        theirs = model(input_ids=ids, attention_mask=(ids > 0).long(), labels=labels).loss
    assert ours.item() == pytest.approx(theirs.item(), rel=1e-6)


def test_labels_of_steps_reach_the_data_side():
    module = lit_align.ProcessReward(policy="unused", last_only=True, neutral="ignore")
    assert module.step_labelling == (True, False, "ignore")


# -------------------------------------------------------------------- ratings


def test_weights_make_one_score_of_ratings():
    module = lit_align.RegressionReward(policy="unused")
    assert module.response_scores(H2[0]).tolist() == pytest.approx([6.03, 2.085])
    module = lit_align.RegressionReward(policy="unused", weights={"coherence": 2.0, "verbosity": -1.0})
    assert module.response_scores(H2[0]).tolist() == pytest.approx([2 * 3.9 - 1.6, 2 * 2.5 - 3])
    assert module.output_names == ("helpfulness", "correctness", "coherence", "complexity", "verbosity")


def test_one_attribute_has_one_number(tiny_model_dir):
    module = ready("RegressionReward", tiny_model_dir, attributes=["quality"], weights={"quality": 2.0})
    examples = [example._replace(ratings=[float(example.row)]) for example in make_examples(DataKind.RATED)]
    batch = collated(module, examples, Layout.SHARED)
    predicted = module.policy(batch.rows)
    assert predicted.shape == (4,)
    expected = (predicted.detach() - t(1, 2, 3, 4)).square().mean()
    assert scored(module, batch).loss.item() == pytest.approx(expected.item())
    torch.testing.assert_close(module.score_responses(batch.rows), 2 * predicted)


@pytest.mark.parametrize(
    ("settings", "what"),
    [
        ({"attributes": []}, "no names of their own"),
        ({"attributes": ["a", "a"], "weights": "mean"}, "no names of their own"),
        ({"attributes": ["a"]}, "weights of coherence, complexity, correctness, helpfulness, verbosity"),
        ({"weights": {"humour": 1.0}}, "weights of humour"),
        ({"weights": {"coherence": 0.0}}, "weights: {'coherence': 0.0}"),
        ({"weights": {"coherence": math.inf}}, "weights.coherence: inf"),
    ],
)
def test_weights_that_are_not_those_of_the_attributes_are_refused(settings, what):
    with pytest.raises(ConfigError, match=what):
        lit_align.RegressionReward(policy="unused", **settings)


def test_errors_are_divided_by_the_standard_deviation_of_what_was_rated_so_far():
    module = saying("RegressionReward", H2[0], standardise=True)
    nan = math.nan
    first = torch.tensor([[0.0, 1, 2, 3, nan], [4.0, 1, 3, 3, nan]], dtype=torch.float64)
    second = torch.tensor([[2.0, 1, nan, 1, 2], [2.0, 1, nan, 2, 3]], dtype=torch.float64)
    rows = rows_of([1], [1])
    for ratings in (first, second):
        batch = RatedBatch(rows, ratings, torch.tensor([1, 2]))
        loss = reduce_terms(module.terms(batch), batch.counts())
    variances = [2.0, 1.0, 0.25, 0.6875, 0.25]
    expected = sum(
        ((p - y) ** 2 / v)
        for i in range(2)
        for p, y, v in zip(H2[0][i].tolist(), second[i].tolist(), variances, strict=True)
        if y == y
    )
    assert loss.item() == pytest.approx(expected / 8)
    # They are part of checkpoints, and validation leaves them as they are.
    saved = module.state_dict()
    again = saying("RegressionReward", H2[0], standardise=True).eval()
    again.load_state_dict(saved)
    assert reduce_terms(again.terms(batch), batch.counts()) == loss
    assert all(torch.equal(value, again.state_dict()[name]) for name, value in saved.items())
    # Errors that are logged are in the data's own units.
    assert again.meter.compute()["mse/correctness"] == pytest.approx(((2.8 - 1) ** 2 + 0) / 2)


# -------------------------------------------------------------------- pairs


def test_a_pair_that_counts_nothing_has_no_gradient():
    chosen, rejected = (x.clone().requires_grad_() for x in R3)
    module = lit_align.BradleyTerry(policy="unused", center=0.1, l2=0.1)
    terms = module.losses(chosen, rejected, weight=t(1.0, 0.0, 2.0))
    torch.stack([term.values.sum() for term in terms.values()]).sum().backward()
    assert chosen.grad[1] == rejected.grad[1] == 0
    assert (chosen.grad[[0, 2]] != 0).all()


@pytest.mark.parametrize("levels", [(1.0, 1.0, 2.0), (3.0, 2.0, 1.0), (1.0, 2.0)])
def test_levels_of_margins_rise(levels):
    with pytest.raises(ConfigError, match="levels do not rise"):
        lit_align.MarginReward(policy="unused", levels=levels)


def test_a_cost_model_calls_safe_what_costs_less_than_nothing():
    costs = torch.cat(S2)
    module = lit_align.CostModel(policy="unused")
    assert module.response_scores(costs).tolist() == [1.2, -0.4, -0.5, -1.5]
    chosen, rejected = (x.clone().requires_grad_() for x in S2)
    terms = module.losses(chosen, rejected, **SAFETY)
    assert module.meter.compute()["sign_accuracy"] == 1.0
    (terms["preference"].values + terms["sign"].values).mean().backward()
    assert chosen.grad.tolist() == pytest.approx([0.192970240792, -0.0757862227413])
    assert rejected.grad.tolist() == pytest.approx([-0.266002966941, -0.216082709106])
    module.meter.reset()
    module.losses(-chosen, rejected, **SAFETY)
    # A cost of exactly 0 is not that of a safe response.
    module.losses(0 * chosen, 0 * rejected, **SAFETY)
    assert module.meter.compute()["sign_accuracy"] == pytest.approx((2 + 3) / 8)


def test_accuracy_of_costs_counts_the_safer_response_with_the_lower_cost(tiny_model_dir):
    module = ready("CostModel", tiny_model_dir)
    batch = collated(module, make_examples(DataKind.PAIRS), Layout.SHARED)
    metrics = scored(module, batch).metrics
    costs = module.policy(batch.rows).detach()
    assert metrics["accuracy"] == (costs[0::2] < costs[1::2]).double().mean()
    assert metrics["mean_reward"] == pytest.approx(-costs.mean().item(), rel=1e-6)


def test_a_preference_model_has_no_score_for_a_response(tiny_model_dir):
    module = ready("PairwisePreference", tiny_model_dir)
    batch = collated(module, make_examples(DataKind.COMPARISONS), Layout.SHARED)
    with pytest.raises(ConfigError, match="no score for a single response"):
        module.score_responses(batch.rows)


def test_metrics_of_comparisons_are_those_of_both_orders():
    first, second = t(0.9, 0.2), t(-0.4, 0.7)
    module = saying("PairwisePreference", torch.stack([first, second], 1).flatten())
    example = Example(1, [[5, 6, 7], [5, 7, 6]], [1, 1])
    batch = collated(module, [example, example], Layout.PACKED)
    module.terms(batch)
    metrics = module.meter.compute()
    # The second pair's model likes whatever stands first, and the rejected response more.
    assert metrics["accuracy"] == 0.5
    assert metrics["margin"] == pytest.approx((1.3 / 2 - 0.5 / 2) / 2)
    bias = [abs(sigmoid(a) + sigmoid(b) - 1) for a, b in ((0.9, -0.4), (0.2, 0.7))]
    assert metrics["position_bias"] == pytest.approx(sum(bias) / 2)


# -------------------------------------------------------------------- ensembles


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({"combine": "mean"}, [2.0, 1.5, 1.86666666667, 0.0666666666667]),
        ({"combine": "worst"}, [1.8, 1.4, 0.2, -0.1]),
        ({}, [1.98666666667, 1.49666666667, 0.958888888889, 0.0522222222222]),
        ({"ddof": 1}, [1.98, 1.495, 0.505, 0.045]),
        ({"combine": "lcb", "ddof": 1}, [1.9, 1.45, 1.0415404137, -0.0374166333066]),
    ],
)
def test_the_scores_of_an_ensemble(settings, expected):
    members = torch.stack([t(2.0, 1.5, 3.5, 0.0), t(1.8, 1.6, 0.2, 0.3), t(2.2, 1.4, 1.9, -0.1)], 1)
    module = lit_align.EnsembleReward(policy="unused", members=3, **settings)
    assert module.response_scores(members).tolist() == pytest.approx(expected, rel=1e-9)


@pytest.mark.parametrize("settings", [{"members": 1}, {"ddof": 2}])
def test_what_is_no_ensemble_is_refused(settings):
    with pytest.raises(ConfigError, match=r"give 2 or more|give 0 or 1"):
        lit_align.EnsembleReward(policy="unused", **settings)


def test_members_draw_rows_of_their_own():
    rows = torch.arange(20_000)
    counts = bootstrap_counts(rows, 3, seed=1)
    # Of a Poisson distribution of mean 1.
    for drawn, share in enumerate((math.exp(-1), math.exp(-1), math.exp(-1) / 2, math.exp(-1) / 6)):
        assert ((counts == drawn).double().mean() - share).abs() < 0.01
    table = torch.cat([counts, bootstrap_counts(rows, 3, seed=2), counts.roll(1, 0)], 1).T
    unrelated = torch.corrcoef(table) - torch.eye(9)
    assert unrelated.abs().max() < 0.03
    # A row's draws are its own, whatever batch it is in.
    some = torch.tensor([17, 3, 17, 19_999])
    assert torch.equal(bootstrap_counts(some, 3, seed=1), counts[some])


def test_members_begin_apart_and_learn_apart(tiny_model_dir):
    module = ready("EnsembleReward", tiny_model_dir, members=3, moved=False)
    weight = module.policy.model.score.weight
    assert torch.corrcoef(weight.detach()).fill_diagonal_(0).abs().max() < 0.6
    batch = collated(module, make_examples(DataKind.PAIRS), Layout.SHARED)
    assert scored(module, batch).metrics["disagreement"] > 0
    drawn = bootstrap_counts(batch.source_rows, 3, 0)
    for member in range(3):
        assert bool((weight.grad[member] == 0).all()) == bool((drawn[:, member] == 0).all())


def test_held_out_rows_are_not_drawn():
    module = lit_align.EnsembleReward(policy="unused", members=2, bootstrap_seed=5)
    drawn = module.losses(*E3, source_rows=torch.tensor([1, 2, 3]))
    held_out = module.eval().losses(*E3, source_rows=torch.tensor([1, 2, 3]))
    expected = [(softplus(-0.7) + softplus(-0.3)) / 2, (softplus(0.4) + softplus(-0.7)) / 2]
    assert held_out[:2].tolist() == pytest.approx(expected)
    assert drawn[0] != held_out[0]


# -------------------------------------------------------------------- length


def test_a_head_of_quality_is_what_odin_scores_by(tiny_model_dir):
    module = ready("ODIN", tiny_model_dir)
    batch = collated(module, make_examples(DataKind.PAIRS), Layout.SHARED)
    metrics = scored(module, batch).metrics
    outputs = module.policy(batch.rows).detach()
    quality, lengths = outputs[:, 0], batch.rows.response_lengths.double()
    torch.testing.assert_close(module.score_responses(batch.rows), quality)
    assert metrics["accuracy"] == (quality[0::2] > quality[1::2]).double().mean()
    for name, values in (("quality", quality), ("length", outputs[:, 1])):
        expected = torch.corrcoef(torch.stack([values, lengths]))[0, 1]
        assert metrics[f"correlation/{name}"] == pytest.approx(expected.item(), rel=1e-9)


def test_batches_without_a_correlation_count_in_no_mean():
    module = lit_align.ODIN(policy="unused")
    overlap = torch.zeros((), dtype=torch.float64)
    equal = {name: torch.tensor([50, 50]) for name in LENGTHS}
    module.losses(*O2, **LENGTHS, overlap=overlap)
    alone = module.meter.compute()
    terms = module.losses(*O2, **equal, overlap=overlap)
    assert module.meter.compute() == alone
    assert terms["length"].values.tolist() == [0, 0]
    inputs = [x.clone().requires_grad_() for x in O2]
    for lengths in (LENGTHS, equal):
        terms = module.losses(*(x - x.detach() for x in inputs), **lengths, overlap=overlap)
        torch.stack([term.values.sum() for term in terms.values()]).sum().backward()
        assert all(x.grad.isfinite().all() for x in inputs)


def test_odin_warns_of_small_batches_once(recwarn):
    module = lit_align.ODIN(policy="unused").train()
    overlap = torch.zeros((), dtype=torch.float64)

    def step(pairs):
        chosen, rejected = torch.randn(2, pairs, 2, dtype=torch.float64)
        lengths = {name: torch.arange(1, pairs + 1) for name in LENGTHS}
        module.losses(chosen, rejected, **lengths, overlap=overlap)
        return [str(warning.message) for warning in recwarn]

    assert step(4) == []
    module.eval()
    assert step(1) == [], "of held-out pairs nothing is learnt"
    module.train()
    (message,) = step(3)
    assert "has 6 responses" in message
    assert len(step(2)) == 1


@pytest.mark.parametrize("convert", ["good_bad_pairs", None])
def test_pretraining_without_its_conversion_is_bradley_terry(convert, tiny_model_dir, tmp_path, recwarn):
    rows = [{"prompt": "p", "chosen": f"good {n}", "rejected": f"bad {n}"} for n in range(4)]
    (tmp_path / "pairs.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    trainer = Trainer(accelerator="cpu", enable_progress_bar=False, enable_model_summary=False, logger=False,
                      max_steps=1, default_root_dir=str(tmp_path))  # fmt: skip
    data = lit_align.PreferenceDataModule(str(tmp_path / "pairs.jsonl"), convert=convert, cache_dir=tmp_path / "cache")
    trainer.fit(lit_align.PreferencePretraining(policy=tiny_model_dir), data)
    assert any("plain Bradley-Terry" in str(one.message) for one in recwarn) == (convert is None)


def test_a_list_of_ties_stands_in_no_mean(tiny_model_dir, tmp_path):
    """It is dropped when data are read, and counted; batches are of the others alone."""
    rows = [
        {"prompt": "p", "responses": ["a", "b", "c"], "scores": scores} for scores in ([1, 1, 1], [2, 1, 1], [0, 0, 0])
    ]
    (tmp_path / "ranked.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    data = lit_align.PreferenceDataModule(str(tmp_path / "ranked.jsonl"), cache_dir=tmp_path / "cache")
    module = ready("KWiseReward", tiny_model_dir)
    (example,) = data.examples("train", DataKind.RANKED, build_tiny_tokenizer())
    assert data.reports["train"].to_dict()["dropped"]["no response was preferred"]["rows"] == [1, 3]
    batch = collated(module, [example], Layout.SHARED)
    assert batch.counts().examples == 1


def test_pearsons_correlation():
    generator = torch.Generator().manual_seed(0)
    one = torch.randn(9, generator=generator, dtype=torch.float64)
    two = one + torch.randn(9, generator=generator, dtype=torch.float64)
    expected = torch.corrcoef(torch.stack([one, two]))[0, 1]
    for scale, shift in ((1.0, 0.0), (1e-200, 0.0), (1e200, 0.0), (1.0, 1e6)):
        found, there = correlation(scale * one + shift, two)
        assert there
        assert found.item() == pytest.approx(expected.item(), rel=1e-8)
    for flat in (torch.full((9,), 0.1, dtype=torch.float64), torch.zeros(9, dtype=torch.float64)):
        assert correlation(one, flat) == (0, False)
        assert correlation(flat, one) == (0, False)
    assert torch.autograd.gradcheck(lambda x: correlation(x, two)[0], one.requires_grad_())


# -------------------------------------------------------------------- tokens


def test_of_a_pair_only_the_places_after_the_difference_are_learnt_from(tiny_model_dir):
    module = ready("TokenReward", tiny_model_dir)
    prompt, shared = [9, 8, 7], [20, 21]
    pairs = [
        ([*shared, 30, 31, 32], [*shared, 40, 41]),
        # One begins with all of the other.
        ([*shared, 30], [*shared]),
    ]
    examples = [
        Example(n, [prompt + c, prompt + r], [3, 3], pairs=[(0, 1)], margins=[0.0]) for n, (c, r) in enumerate(pairs, 1)
    ]
    for layout in Layout:
        batch = collated(module, examples, layout)
        scores = module.policy(batch.rows, every_token=True).detach()
        chosen, rejected = scores[2:4], scores[7:9]
        expected = sum(softplus(-d) for d in (chosen - rejected).tolist()) / 2
        values = module.terms(batch)["loss"].values
        assert values.tolist() == pytest.approx([expected, 0.0])
        last = scores[[4, 8, 11, 13]]
        module.meter.reset()
        module.terms(batch)
        assert module.meter.compute()["margin"] == pytest.approx((last[0] - last[1] + last[2] - last[3]).item() / 2)
        torch.testing.assert_close(module.score_responses(batch.rows), last)


def test_outcomes_at_every_token_are_scored_at_the_last(tiny_model_dir):
    module = ready("OutcomeReward", tiny_model_dir)
    examples = make_examples(DataKind.UNPAIRED, masked=False)
    batch = collated(module, examples, Layout.SHARED)
    tokens = module.policy(batch.rows, every_token=True).detach()
    assert len(tokens) == sum(len(example.ids[0]) - example.prompt_lengths[0] for example in examples)
    last = tokens[batch.rows.response_lengths.cumsum(0) - 1]
    torch.testing.assert_close(module.score_responses(batch.rows), last)
    metrics = scored(module, batch).metrics
    assert metrics["accuracy"] == ((last > 0) == batch.label).double().mean()
    assert metrics["rewards/chosen"] == pytest.approx(last[batch.label].mean().item())
    assert metrics["rewards/rejected"] == pytest.approx(last[~batch.label].mean().item())


def test_metrics_of_ranked_lists(tiny_model_dir):
    module = ready("KWiseReward", tiny_model_dir)
    batch = collated(module, make_examples(DataKind.RANKED), Layout.SHARED)
    metrics = scored(module, batch).metrics
    scores = module.policy(batch.rows).detach()
    right = total = top = 0
    for places, mask in zip(batch.places, batch.mask, strict=True):
        values = [scores[place].item() for place, there in zip(places, mask, strict=True) if there]
        right += sum(values[i] > values[j] for i in range(len(values)) for j in range(i + 1, len(values)))
        total += len(values) * (len(values) - 1) // 2
        top += max(values) == values[0]
    assert metrics["accuracy"] == pytest.approx(right / total)
    assert metrics["top_accuracy"] == pytest.approx(top / len(batch.places))
