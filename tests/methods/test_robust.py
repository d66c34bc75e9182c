"""What the robust methods promise beyond the arithmetic of their rows."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import Trainer, seed_everything

import lit_align
from lit_align import PreferenceDataModule
from lit_align.callbacks import ExactResume, RunCheckpoint
from lit_align.core.batch import Layout
from lit_align.core.errors import ConfigError
from lit_align.core.layout import build_rows
from lit_align.core.outputs import PairLogps
from lit_align.methods.beta_dpo import dynamic_beta, gumbel_keys
from lit_align.methods.dpo_cov import noise_of
from lit_align.methods.dr_dpo import soft_minimum
from tests.cases.pairs_robust import R3, R3_ALONE
from tests.cases.row import t
from tests.launch import launch

GAPS = t(1.0, -0.25, -2.75)


def build(name: str, **kwargs: Any) -> Any:
    return getattr(lit_align, name)(policy="unused", **kwargs)


def gradient(name: str, inputs: tuple[PairLogps, PairLogps] = R3, **kwargs: Any) -> tuple[torch.Tensor, torch.Tensor]:
    """Of the mean loss in the summed log-probabilities of chosen and rejected."""
    facts = kwargs.pop("facts", {})
    chosen, rejected = (x.clone().requires_grad_() for x in inputs[0][:2])
    build(name, **kwargs).losses(
        inputs[0]._replace(chosen=chosen, rejected=rejected), inputs[1], **facts
    ).mean().backward()
    return chosen.grad, rejected.grad


# -------------------------------------------------------------------- gradients of the published vectors


@pytest.mark.parametrize(
    ("name", "kwargs", "chosen", "rejected"),
    [
        ("DPOPositive", {}, [-0.0425557483188, -5.09738442795, -5.09999998392],
         [0.0425557483188, 0.0999487142736, 0.0999999996847]),
        ("MaPPO", {"facts": {"chosen_scores": t(0.8, 0.1, 0.4), "rejected_scores": t(0, 0, 0)}},
         [-0.0159171725069, -0.0170624255919, -0.0182039513682], [0.0127337380056, 0.00170624255919, 0.00728158054728]),
        ("AlphaDPO", {}, [-0.137792368483, -0.132717367332, -0.000445541412551],
         [0.165350842179, 0.106173893865, 0.000556926765689]),
        ("DrDPO", {"beta_prime": 0.1}, [-0.0282265512681, -0.0162915731805, -0.00477239838938],
         [0.0282265512681, 0.0162915731805, 0.00477239838938]),
        ("DPOCOV", {"beta": 0.5, "noise_cost": 0.3, "sft_weight": 0.01, "length_weight": 0.02},
         [-0.0516666666667] * 3, [0.05] * 3),
        ("ROPO", {"facts": {"source_rows": torch.tensor([1, 2, 3])}},
         [-0.0329054786685, -0.0332324977721, -0.0332098525753], [0.0329054786685, 0.0332324977721, 0.0332098525753]),
    ],
)  # fmt: skip
def test_gradients_are_the_published_ones(name, kwargs, chosen, rejected):
    found = gradient(name, **kwargs)
    assert found[0].tolist() == pytest.approx(chosen, rel=1e-9)
    assert found[1].tolist() == pytest.approx(rejected, rel=1e-9)


def test_two_sided_pushes_back_above_the_right_margin():
    chosen, _ = gradient("TwoSidedPO", R3_ALONE, beta=0.5, left=0.0, right=2.0, z="sum")
    # The gaps are -1, 1.25 and -2.25; least between the margins is 1.
    assert chosen.tolist() == pytest.approx([-0.0733389678992, 0.009781377452, -0.10803739882], rel=1e-9)


def test_the_weight_of_a_pair_in_ropo_is_at_most_one():
    margins = torch.linspace(-20, 20, 4001, dtype=torch.float64, requires_grad=True)
    zeros = torch.zeros_like(margins)
    inputs = PairLogps(margins, zeros, zeros + 1, zeros + 1), PairLogps(zeros, zeros, zeros + 1, zeros + 1)
    build("ROPO", beta=1.0).losses(*inputs, source_rows=zeros).sum().backward()
    assert -margins.grad.min().item() == pytest.approx(1.0, abs=1e-4)
    assert margins.grad[0].abs() < 0.3, "pairs that are contradicted strongly count less again"


def test_the_weights_of_pairs_in_ropo_are_the_published_ones():
    slopes, _ = gradient("ROPO", beta=1.0, facts={"source_rows": torch.tensor([1, 2, 3])})
    assert (-3 * slopes).tolist() == pytest.approx([0.752019890036, 0.997560021848, 0.430722326186], rel=1e-9)


def test_the_noise_of_dpo_cov_is_the_best_one():
    margins = t(-3.0, -1.0, 0.0, 2.0)
    grid = torch.linspace(0, 8, 80001, dtype=torch.float64)
    for cost in (0.3, 0.5, 0.7, 1.0):
        losses = cost * grid - torch.nn.functional.logsigmoid(margins[:, None] + grid)
        best = grid[losses.argmin(1)]
        torch.testing.assert_close(noise_of(margins, cost), best, rtol=0, atol=2e-4)


# -------------------------------------------------------------------- soft minimum


@pytest.mark.parametrize(("beta_prime", "expected"), [(1e6, 2.0), (1e-3, 1.0)])
def test_the_soft_minimum_lies_between_mean_and_minimum(beta_prime, expected):
    assert soft_minimum(t(1.0, 3.0), beta_prime).tolist() == pytest.approx([expected] * 2, abs=1e-3)


def test_the_weights_of_losses_are_the_published_ones():
    losses = t(0.1, 1.0).requires_grad_()
    soft_minimum(losses, 0.1).sum().backward()
    assert losses.grad.tolist() == pytest.approx([1.99975321085, 0.000246789151972], rel=1e-9)


def test_the_loss_before_the_soft_minimum_is_recorded():
    module = build("DrDPO")
    module.losses(*R3)
    assert module.meter.compute()["dpo_loss"] == pytest.approx(build("DPO").losses(*R3).mean().item())


# -------------------------------------------------------------------- running averages


def test_the_averages_of_alpha_dpo_are_the_published_ones():
    module = build("AlphaDPO")
    module.losses(*R3)
    assert module.moments.mean.mean.item() == pytest.approx(-0.00680555555556, rel=1e-9)
    assert module.moments.std.mean.item() == pytest.approx(0.0247989601783, rel=1e-9)
    assert {"moments.mean.mean", "moments.std.mean"} <= module.saved_names(module.state_dict())


# -------------------------------------------------------------------- beta-DPO


def test_the_beta_of_a_batch():
    """The published vector: a mean gap of -2/3 where the running mean is 0.5."""
    beta = dynamic_beta(GAPS, t(0.5), 0.1, 0.6)
    assert beta.item() == pytest.approx(0.03)
    losses = -torch.nn.functional.logsigmoid(beta * GAPS)
    assert losses.tolist() == pytest.approx([0.678259676341, 0.696904211793, 0.735247720643], rel=1e-9)
    assert dynamic_beta(GAPS - 100, t(0.0), 0.1, 0.6) == 1e-3


def test_unusual_pairs_are_drawn_less_often():
    torch.manual_seed(0)
    log_weights = torch.log(t(0.2, 0.8)).repeat(20000, 1)
    first = gumbel_keys(log_weights).argmax(1).double().mean()
    assert first.item() == pytest.approx(0.8, abs=0.01)


def test_pairs_are_left_out_in_training_and_the_others_weighted_up():
    torch.manual_seed(0)
    module = build("BetaDPO", filter_rate=0.4, sensitivity=0.0)
    many = [PairLogps(*(part.repeat(4)[:10] for part in logps[:4])) for logps in R3]
    gaps = many[0].logratios(many[1]).margins
    plain = -torch.nn.functional.logsigmoid(0.1 * gaps)
    weights = module.losses(*many) / plain
    assert sorted(weights.tolist()) == pytest.approx([0.0] * 4 + [10 / 6] * 6)
    torch.testing.assert_close(module.eval().losses(*many), plain)


def coupled(rank_rows: list[list[int]], name: str, kwargs: dict[str, Any]) -> tuple[list[float], list[list[float]]]:
    rank = torch.distributed.get_rank() if torch.distributed.is_initialized() else 0
    rows = rank_rows[rank]
    inputs = tuple(PairLogps(*(part[rows] for part in logps[:4])) for logps in R3)
    facts = {"timestamp": t(10, 55, 99)[rows]} if name == "NSDPO" else {}
    chosen = inputs[0].chosen.clone().requires_grad_()
    torch.manual_seed(0)
    losses = build(name, **kwargs).losses(inputs[0]._replace(chosen=chosen), inputs[1], **facts)
    terms = [term.values for term in losses.values()] if isinstance(losses, dict) else [losses]
    torch.stack(terms).sum().backward()
    return torch.stack(terms).sum(0).tolist(), chosen.grad.tolist()


def coupled_in_a_group(*args: Any) -> Any:
    torch.distributed.init_process_group("gloo")
    return coupled(*args)


@pytest.mark.parametrize(
    ("name", "kwargs"),
    [
        ("DrDPO", {"beta_prime": 0.1}), ("AlphaDPO", {}), ("BetaDPO", {"filter_rate": 0.0}), ("NSDPO", {}),
        ("BetaDPO", {"filter_rate": 0.4}),
        ("StableDPO", {"penalty": "hinge", "v_hat": 1.8}),
        ("StableDPO", {"penalty": "squared_hinge", "v_hat": 1.8, "nll_reduction": "sequence_mean"}),
    ],
)  # fmt: skip
def test_ranks_with_unequal_shares_are_one_batch(name, kwargs):
    values, slopes = coupled([[0, 1, 2]], name, kwargs)
    parts = launch(coupled_in_a_group, [[0, 1], [2]], name, kwargs)
    assert parts[0][0] + parts[1][0] == pytest.approx(values, rel=1e-12)
    assert parts[0][1] + parts[1][1] == pytest.approx(slopes, rel=1e-12)


# -------------------------------------------------------------------- NS-DPO


def test_the_present_is_needed_where_it_does_not_cancel_out():
    for kwargs in ({"normalise": False}, {"window": 10.0}):
        with pytest.raises(ConfigError, match="does not know the present"):
            build("NSDPO", **kwargs)


def test_weights_by_age():
    weights = build("NSDPO", gamma=0.5, current_time=5.0, normalise=False).weights(t(4, 3, 1, 9))
    assert weights.tolist() == pytest.approx([1.0, 0.5, 0.125, 1.0])


# -------------------------------------------------------------------- SPO


@pytest.fixture
def pairs(tmp_path) -> str:
    path = tmp_path / "pairs.jsonl"
    lengths = [3, 1, 2, 5, 1, 4, 2, 3]
    rows = [{"prompt": f"{n}?", "chosen": " a" * n, "rejected": " no"} for n in lengths]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


def spo(model: str, pairs: str, folder: Path, ckpt_path: str | None = None, **kwargs: Any) -> Any:
    seed_everything(0, verbose=False)
    module = lit_align.StableDPO(policy=model, learning_rate=1e-2, warmup_ratio=0.0, **kwargs)
    trainer = Trainer(
        accelerator="cpu", devices=1, max_epochs=2, default_root_dir=str(folder), logger=False,
        callbacks=[ExactResume(), RunCheckpoint(every_n_steps=1, keep=-1)], enable_progress_bar=False,
        enable_model_summary=False, use_distributed_sampler=False,
    )  # fmt: skip
    trainer.fit(module, PreferenceDataModule(pairs, batch_size=4, cache_dir=str(folder / "cache")), ckpt_path=ckpt_path)
    return module


@pytest.mark.parametrize("reduction", ["token_mean", "sequence_mean"])
def test_the_target_is_what_the_initial_policy_reaches(tiny_model_dir, pairs, tmp_path, reduction):
    module = spo(tiny_model_dir, pairs, tmp_path, penalty="hinge", nll_reduction=reduction)
    fresh = lit_align.StableDPO(policy=tiny_model_dir)
    fresh.configure_model()
    data = PreferenceDataModule(pairs, cache_dir=str(tmp_path / "cache"), tokenizer=tiny_model_dir)
    examples = list(data.examples("train"))
    logps = fresh.policy.eval().sequence_logps(build_rows(examples, Layout.PADDED))
    sums, lengths = logps.sums.detach()[::2], logps.lengths[::2]
    expected = -sums.sum() / lengths.sum() if reduction == "token_mean" else -(sums / lengths).mean()
    assert module.v_initial.mean.item() == pytest.approx(expected.item(), rel=1e-6)
    # It is the initial policy's also in a run that goes on with another.
    again = spo(
        tiny_model_dir, pairs, tmp_path / "again", str(tmp_path / "checkpoints" / "step=2.ckpt"), penalty="hinge",
        nll_reduction=reduction,
    )  # fmt: skip
    assert torch.equal(again.v_initial.mean, module.v_initial.mean)
    names = [name for name, value in module.state_dict().items() if not torch.equal(value, again.state_dict()[name])]
    assert names == []


def test_without_training_there_is_no_target():
    module = build("StableDPO")
    assert module.v_initial.count == 0
    terms = module.losses(*R3)
    assert terms["shift"].values.tolist() == [0.0] * 3


def test_16_bit_weights_do_not_round_the_target(tiny_model_dir, pairs, tmp_path):
    module = spo(tiny_model_dir, pairs, tmp_path)
    known = module.v_initial.mean.clone()
    assert known != known.bfloat16()
    assert torch.equal(module.to(torch.bfloat16).v_initial.mean, known)


@pytest.mark.parametrize(
    ("settings", "message"),
    [({"penalty": "linear", "slack": 0.1}, "slack: 0.1"), ({"v_hat": math.inf}, "v_hat: inf"),
     ({"v_hat": math.nan}, "v_hat: nan")],
)  # fmt: skip
def test_penalties_that_cannot_be_meant_are_refused(settings, message):
    with pytest.raises(ConfigError, match=message):
        build("StableDPO", **settings)


def test_a_target_needs_rows_that_can_be_looked_up(tiny_model_dir, pairs, tmp_path):
    module = lit_align.StableDPO(policy=tiny_model_dir)
    data = PreferenceDataModule(pairs, streaming=True, cache_dir=str(tmp_path / "cache"))
    trainer = Trainer(accelerator="cpu", max_steps=1, default_root_dir=str(tmp_path), logger=False)
    with pytest.raises(ConfigError, match="v_hat: initial has to look up rows"):
        trainer.fit(module, data)


@pytest.mark.parametrize(
    ("name", "kwargs", "message"),
    [
        ("TwoSidedPO", {"left": 0.5, "right": 0.5}, "left: 0.5 and right: 0.5"), ("ROPO", {"alpha": 2.0}, "alpha: 2.0"),
        ("NSDPO", {"gamma": 0.0}, "gamma: 0.0"), ("NSDPO", {"gamma": 1.5}, "gamma: 1.5"),
        ("BetaDPO", {"filter_rate": 1.0}, "filter_rate: 1.0"), ("DPOCOV", {"noise_cost": 0.0}, "noise_cost: 0.0"),
        ("StableCPO", {"rho": -1.0}, "rho: -1.0"), ("MaPPO", {"score_range": 0.0}, "score_range: 0.0"),
    ],
)  # fmt: skip
def test_settings_out_of_range_are_refused(name, kwargs, message):
    with pytest.raises(ConfigError, match=message):
        build(name, **kwargs)
