"""TRL 1.16 as an oracle: the loss algebra of its trainers on random numbers; skipped where TRL is not installed.

TRL has no stand-alone losses any more. Its methods are called without a trainer, on an object that has the attributes
they read, and on a model that returns given token log-probabilities.
"""

from __future__ import annotations

from collections import defaultdict
from types import MethodType, SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import lit_align
from lit_align.core.batch import Counts
from lit_align.core.kinds import as_terms
from lit_align.core.outputs import PairLogps, PairValues, SequenceLogps, reduce_terms

trl = pytest.importorskip("trl")
if not trl.__version__.startswith("1.16"):
    pytest.skip(f"private methods of TRL 1.16 are called; this is {trl.__version__}", allow_module_level=True)

DRAWS = range(5)


class Accelerator(SimpleNamespace):
    """One process that gathers from itself."""

    device = torch.device("cpu")
    num_processes = 1
    sync_gradients = True

    def gather(self, x: Tensor) -> Tensor:
        return x

    def gather_for_metrics(self, x: Any, **_: Any) -> Any:
        return x

    def reduce(self, x: Tensor, reduction: str = "sum") -> Tensor:
        return x

    def unwrap_model(self, model: Any, **_: Any) -> Any:
        return model


class Returns(nn.Module):
    """A model that gives token log-probabilities, others for rows that start with 9 (KTO's mismatched ones)."""

    is_gradient_checkpointing = False

    def __init__(self, token_logps: Tensor, mismatched: Tensor | None = None) -> None:
        super().__init__()
        self.token_logps, self.mismatched = token_logps, mismatched

    def forward(self, **inputs: Any) -> SimpleNamespace:
        values = self.token_logps
        if self.mismatched is not None and inputs["input_ids"][0, 0] == 9:
            values = self.mismatched
        zero = torch.zeros_like(values)
        return SimpleNamespace(
            log_probs=values, entropy=zero, mean_logits=zero, is_top1=zero.bool(), log_sum_sq_probs=zero
        )


def draw(seed: int, number: int = 6) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Policy and reference log-probabilities of chosen and rejected, and their lengths."""
    generator = torch.Generator().manual_seed(seed)
    sums = -40 * torch.rand(2, number, generator=generator, dtype=torch.float64) - 0.5
    reference = sums + torch.randn(2, number, generator=generator, dtype=torch.float64)
    lengths = torch.randint(1, 12, (2, number), generator=generator)
    return sums[0], sums[1], reference[0], reference[1], lengths[0], lengths[1]


def spread(sums: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
    """Token log-probabilities [B, T] that add up to the sums, and the completion mask [B, T + 1]."""
    width = int(lengths.max())
    mask = torch.arange(width) < lengths[:, None]
    tokens = torch.where(mask, (sums / lengths)[:, None], 0.0)
    return tokens, torch.cat([torch.zeros(len(sums), 1, dtype=torch.long), mask.long()], 1)


def losses(name: str, *inputs: Any, **kwargs: Any) -> Tensor:
    """Mean of this library's losses."""
    terms = as_terms(getattr(lit_align, name)(policy="unused", **kwargs).losses(*inputs))
    return torch.stack([term.values.mean() for term in terms.values()]).sum()


def trl_dpo(
    c: Tensor, r: Tensor, rc: Tensor, rr: Tensor, cl: Tensor, rl: Tensor, loss_type: str, beta: float, **settings: Any
) -> float:
    """`DPOTrainer._compute_loss`; `settings` are attributes of the trainer that differ from plain DPO's."""
    lengths = torch.cat([cl, rl])
    policy, mask = spread(torch.cat([c, r]), lengths)
    reference, _ = spread(torch.cat([rc, rr]), lengths)
    model = Returns(policy)
    trainer = SimpleNamespace(
        accelerator=Accelerator(), model=model, ref_model=Returns(reference), aux_loss_enabled=False, ld_alpha=None,
        precompute_ref_logps=False, args=SimpleNamespace(gradient_checkpointing_kwargs=None, discopop_tau=0.05),
        f_divergence_type="reverse_kl", f_alpha_divergence_coef=0.5, beta=beta, label_smoothing=0.0,
        use_weighting=False, loss_types=[loss_type], loss_weights=[1.0],
        _metrics={"train": defaultdict(list), "eval": defaultdict(list)}, _total_train_tokens=0, _tp_size=1,
    )  # fmt: skip
    vars(trainer).update(settings)
    ones = torch.ones_like(mask)
    inputs = {"input_ids": ones, "attention_mask": ones, "completion_mask": mask}
    return trl.DPOTrainer._compute_loss(trainer, model, inputs, False).item()


@pytest.mark.parametrize("seed", DRAWS)
@pytest.mark.parametrize("beta", [0.05, 0.5])
@pytest.mark.parametrize(("name", "loss_type"), [("DPO", "sigmoid"), ("IPO", "ipo")])
def test_dpo_and_ipo(name, loss_type, beta, seed):
    c, r, rc, rr, cl, rl = draw(seed)
    ours = losses(name, PairLogps(c, r, cl, rl), PairLogps(rc, rr, cl, rl), beta=beta)
    assert ours.item() == pytest.approx(trl_dpo(c, r, rc, rr, cl, rl, loss_type, beta), rel=1e-6)


def trl_cpo(chosen: Tensor, rejected: Tensor, loss_type: str, **settings: Any) -> float:
    """`CPOTrainer.cpo_loss`, which takes means per token for SimPO's loss."""
    from trl.experimental.cpo import CPOTrainer

    usual = {"label_smoothing": 0.0, "alpha": 0.0, "simpo_gamma": 0.7}
    trainer = SimpleNamespace(accelerator=Accelerator(), loss_type=loss_type, **(usual | settings))
    return CPOTrainer.cpo_loss(trainer, chosen, rejected)[0].mean().item()


def alone(seed: int) -> tuple[PairLogps, PairLogps]:
    """Pairs without a reference."""
    c, r, _, _, cl, rl = draw(seed)
    return PairLogps(c, r, cl, rl), PairLogps(torch.zeros_like(c), torch.zeros_like(c), cl, rl)


def alike(**settings: float) -> tuple[dict[str, float], dict[str, float]]:
    """The same arguments here and there."""
    return settings, settings


@pytest.mark.parametrize("seed", DRAWS)
@pytest.mark.parametrize("beta", [0.05, 0.5])
@pytest.mark.parametrize(
    ("name", "loss_type", "settings"),
    [
        ("RobustDPO", "robust", alike(label_smoothing=0.2)), ("HingeDPO", "hinge", alike()),
        ("EXO", "exo_pair", alike(label_smoothing=1e-3)), ("NCAPair", "nca_pair", alike()),
        ("BCOPair", "bco_pair", ({"shift": False}, {})), ("SPPOHard", "sppo_hard", alike()),
        ("SelfPlay", "sigmoid", alike()), ("SelfPlay", "hinge", ({"shape": "hinge"}, {})),
        ("AOT", "aot", alike(label_smoothing=0.1)), ("AOTUnpaired", "aot_unpaired", alike(label_smoothing=0.1)),
        ("LengthNormalizedDPO", "sigmoid_norm", alike()), ("DiscoPOP", "discopop", alike()),
        ("APOZero", "apo_zero", alike()), ("APODown", "apo_down", alike()), ("TRDPO", "sigmoid", alike()),
        ("FDPO", "sigmoid", ({"divergence": "forward_kl"}, {"f_divergence_type": "forward_kl"})),
        ("FDPO", "sigmoid", ({"divergence": "js"}, {"f_divergence_type": "js_divergence"})),
    ],
)  # fmt: skip
def test_losses_on_pairs(name, loss_type, settings, beta, seed):
    c, r, rc, rr, cl, rl = draw(seed)
    theirs = trl_dpo(c, r, rc, rr, cl, rl, loss_type, beta, **settings[1])
    ours = losses(name, PairLogps(c, r, cl, rl), PairLogps(rc, rr, cl, rl), beta=beta, **settings[0])
    assert ours.item() == pytest.approx(theirs, rel=1e-6)


@pytest.mark.parametrize("seed", DRAWS)
@pytest.mark.parametrize("alpha", [0.3, 0.7])
def test_alpha_divergence(alpha, seed):
    """TRL's coefficient is 1 - alpha, and it knows no float64 there."""
    c, r, rc, rr, cl, rl = draw(seed)
    ours = losses("FDPO", PairLogps(c, r, cl, rl), PairLogps(rc, rr, cl, rl), beta=0.2, divergence="alpha", alpha=alpha)
    single = [x.float() for x in (c, r, rc, rr)]
    settings = {"f_divergence_type": "alpha_divergence", "f_alpha_divergence_coef": 1 - alpha}
    assert ours.item() == pytest.approx(trl_dpo(*single, cl, rl, "sigmoid", 0.2, **settings), rel=1e-4)


@pytest.mark.parametrize("seed", DRAWS)
def test_rpo(seed):
    c, r, rc, rr, cl, rl = draw(seed)
    theirs = trl_dpo(c, r, rc, rr, cl, rl, "", 0.2, loss_types=["sigmoid", "sft"], loss_weights=[1.0, 0.3])
    module = lit_align.RegularizedPO(policy="unused", beta=0.2, eta=0.3, sft_reduction="token_mean")
    terms = module.losses(PairLogps(c, r, cl, rl), PairLogps(rc, rr, cl, rl))
    assert reduce_terms(terms, Counts(len(c), cl.sum())).item() == pytest.approx(theirs, rel=1e-6)


@pytest.mark.parametrize("seed", DRAWS)
def test_ld_dpo(seed):
    c, r, rc, rr, cl, rl = draw(seed)
    shorter = torch.minimum(cl, rl)

    def pairs(chosen: Tensor, rejected: Tensor) -> PairLogps:
        # All tokens of a response have the same log-probability.
        public = {"chosen_public": chosen / cl * shorter, "rejected_public": rejected / rl * shorter}
        return PairLogps(chosen, rejected, cl, rl, **public)

    ours = losses("LDDPO", pairs(c, r), pairs(rc, rr), beta=0.2, alpha=0.3)
    assert ours.item() == pytest.approx(trl_dpo(c, r, rc, rr, cl, rl, "sigmoid", 0.2, ld_alpha=0.3), rel=1e-6)


@pytest.mark.parametrize("seed", DRAWS)
def test_wpo(seed):
    """The stand-in for TRL's model says that the logarithms of sums of squared probabilities are 0."""
    c, r, rc, rr, cl, rl = draw(seed)
    zero = torch.zeros_like(c)
    module = lit_align.WPO(policy="unused", beta=0.2, clamp=False)
    ours = module.losses(PairLogps(c, r, cl, rl), PairLogps(rc, rr, cl, rl), log_collision=PairValues(zero, zero))
    theirs = trl_dpo(c, r, rc, rr, cl, rl, "sigmoid", 0.2, use_weighting=True)
    assert ours.mean().item() == pytest.approx(theirs, rel=1e-6)


@pytest.mark.parametrize("seed", DRAWS)
@pytest.mark.parametrize("label_smoothing", [0.0, 0.2])
def test_simpo(label_smoothing, seed):
    policy, reference = alone(seed)
    mean = policy.mean()
    theirs = trl_cpo(mean.chosen, mean.rejected, "simpo", beta=2.0, label_smoothing=label_smoothing)
    ours = losses("SimPO", policy, reference, beta=2.0, gamma=0.7, label_smoothing=label_smoothing)
    assert ours.item() == pytest.approx(theirs, rel=1e-6)


@pytest.mark.parametrize("seed", DRAWS)
@pytest.mark.parametrize("alpha", [-0.5, 0.01, 0.25])
def test_alpha_po(alpha, seed):
    policy, reference = alone(seed)
    mean = policy.mean()
    theirs = trl_cpo(mean.chosen, mean.rejected, "simpo", beta=2.0, alpha=alpha)
    ours = losses("AlphaPO", policy, reference, beta=2.0, gamma=0.7, alpha=alpha)
    assert ours.item() == pytest.approx(theirs, rel=1e-6)


@pytest.mark.parametrize("seed", DRAWS)
@pytest.mark.parametrize("label_smoothing", [0.0, 0.2])
def test_cpo(label_smoothing, seed):
    policy, reference = alone(seed)
    theirs = trl_cpo(policy.chosen, policy.rejected, "sigmoid", beta=0.3, label_smoothing=label_smoothing)
    ours = losses("CPO", policy, reference, beta=0.3, nll_weight=0.0, label_smoothing=label_smoothing)
    assert ours.item() == pytest.approx(theirs, rel=1e-6)


@pytest.mark.parametrize("seed", DRAWS)
@pytest.mark.parametrize("beta", [0.05, 0.5])
def test_hinge_without_a_reference(beta, seed):
    """RSO's third loss is SLiC-HF's calibration in other units."""
    policy, reference = alone(seed)
    theirs = trl_cpo(policy.chosen, policy.rejected, "hinge", beta=beta)
    ours = losses("SLiCHF", policy, reference, delta=1 / beta, reg_weight=0.0)
    assert beta * ours.item() == pytest.approx(theirs, rel=1e-6)


class Predicts(nn.Module):
    """A model that gives logits."""

    def __init__(self, logits: Tensor) -> None:
        super().__init__()
        self.logits = logits

    def forward(self, **_: Any) -> SimpleNamespace:
        return SimpleNamespace(logits=self.logits)


@pytest.mark.parametrize("seed", DRAWS)
@pytest.mark.parametrize(
    ("loss_type", "ours"),
    [("sigmoid", {}), ("tpo-l", {"length_normalized": True, "gamma": 0.7}), ("sigmoid", {"label_smoothing": 0.2})],
)
def test_triple_preference_optimization(loss_type, ours, seed):
    from trl.experimental.tpo import TPOTrainer

    generator = torch.Generator().manual_seed(seed)
    pairs, width = 4, 9
    lengths = torch.randint(1, width, (3, pairs), generator=generator)
    logits = torch.randn(3 * pairs, width, 11, generator=generator, dtype=torch.float64)
    ids = torch.randint(0, 11, (3 * pairs, width), generator=generator)
    mask = (torch.arange(width) > 0) & (torch.arange(width) <= lengths.flatten()[:, None])
    model = Predicts(logits)
    trainer = SimpleNamespace(
        accelerator=Accelerator(), model=model, loss_type=loss_type, beta=0.3, tpo_alpha=0.6, tpo_l_gamma=0.7,
        label_smoothing=ours.get("label_smoothing", 0.0), aux_loss_enabled=False,
        args=SimpleNamespace(tpo_alpha=0.6), _metrics={"train": defaultdict(list), "eval": defaultdict(list)},
        _total_train_tokens=0, _tp_size=1,
    )  # fmt: skip
    inputs = {"input_ids": ids, "attention_mask": torch.ones_like(ids), "completion_mask": mask.long()}
    theirs = TPOTrainer._compute_loss(trainer, model, inputs, False).item()
    tokens = logits[:, :-1].log_softmax(-1).gather(-1, ids[:, 1:, None])[..., 0] * mask[:, 1:]
    chosen, rejected, gold = tokens.sum(1).view(3, pairs)
    policy = PairLogps(chosen, rejected, lengths[0], lengths[1], target=gold, target_lengths=lengths[2])
    zero = torch.zeros_like(chosen)
    module = lit_align.TriplePO(policy="unused", beta=0.3, alpha=0.6, **ours)
    terms = module.losses(policy, PairLogps(zero, zero, lengths[0], lengths[1]))
    counts = Counts(pairs, 0, target_tokens=lengths[2].sum())
    assert reduce_terms(terms, counts).item() == pytest.approx(theirs, rel=1e-6)


@pytest.mark.parametrize("seed", DRAWS)
def test_orpo(seed):
    from trl.experimental.orpo import ORPOTrainer

    c, r, _, _, cl, rl = draw(seed)
    trainer = SimpleNamespace(accelerator=Accelerator(), beta=0.3)
    # TRL returns what it subtracts from the NLL.
    theirs = -ORPOTrainer.odds_ratio_loss(trainer, c / cl, r / rl)[0].mean()
    module = lit_align.ORPO(policy="unused", beta=0.3)
    zero = torch.zeros_like(c)
    terms = module.losses(PairLogps(c, r, cl, rl), PairLogps(zero, zero, cl, rl))
    assert terms["odds_ratio"].values.mean().item() == pytest.approx(theirs.item(), rel=1e-6)


@pytest.mark.parametrize("seed", DRAWS)
@pytest.mark.parametrize(("name", "loss_type"), [("KTO", "kto"), ("APOZeroUnpaired", "apo_zero_unpaired")])
def test_kto(name, loss_type, seed):
    from trl.trainer.kto_trainer import KTOTrainer

    sums, kl, ref, ref_kl, lengths, kl_lengths = draw(seed)
    labels = [bool(int(x) % 2) for x in lengths]
    policy, mask = spread(sums, lengths)
    reference, _ = spread(ref, lengths)
    mismatched, kl_mask = spread(kl, kl_lengths)
    reference_kl, _ = spread(ref_kl, kl_lengths)
    model = Returns(policy, mismatched)
    trainer = SimpleNamespace(
        accelerator=Accelerator(), model=model, ref_model=Returns(reference, reference_kl), aux_loss_enabled=False,
        calculate_KL=loss_type == "kto", precompute_ref_logps=False, loss_type=loss_type,
        args=SimpleNamespace(gradient_checkpointing_kwargs=None), beta=0.2, desirable_weight=1.3,
        undesirable_weight=0.8,
        _metrics={"train": defaultdict(list), "eval": defaultdict(list)}, _total_train_tokens=0, _tp_size=1,
    )  # fmt: skip
    trainer._compute_kl_logps = MethodType(KTOTrainer._compute_kl_logps, trainer)
    inputs = {
        "input_ids": torch.ones_like(mask), "attention_mask": torch.ones_like(mask), "completion_mask": mask,
        "KL_input_ids": torch.full_like(kl_mask, 9), "KL_attention_mask": torch.ones_like(kl_mask),
        "KL_completion_mask": kl_mask, "label": torch.tensor(labels),
    }  # fmt: skip
    theirs = KTOTrainer._compute_loss(trainer, model, inputs, False).item()
    z0 = (kl - ref_kl).mean().clamp(min=0) if loss_type == "kto" else torch.zeros(())
    ours = losses(
        name, SequenceLogps(sums, lengths), SequenceLogps(ref, lengths), torch.tensor(labels), z0,
        beta=0.2, desirable_weight=1.3, undesirable_weight=0.8,
    )  # fmt: skip
    assert ours.item() == pytest.approx(theirs, rel=1e-6)


@pytest.mark.parametrize("seed", DRAWS)
@pytest.mark.parametrize("center", [0.0, 0.05])
@pytest.mark.parametrize(
    ("name", "with_margin"), [("BradleyTerry", False), ("BradleyTerry", True), ("MarginReward", True)]
)
def test_bradley_terry(name, with_margin, center, seed):
    chosen, rejected, margin, *_ = draw(seed)
    margin = margin.abs() if with_margin else None
    settings = {"margins": "data"} if name == "MarginReward" else {}

    class Scores(nn.Module):
        def forward(self, **_: Any) -> SimpleNamespace:
            return SimpleNamespace(logits=torch.cat([chosen, rejected])[:, None])

    model = Scores().train()
    trainer = SimpleNamespace(
        accelerator=Accelerator(), model=model, args=SimpleNamespace(center_rewards_coefficient=center or None),
        _metrics={"train": defaultdict(list), "eval": defaultdict(list)}, _total_train_tokens=0, _tp_size=1,
        aux_loss_enabled=False,
    )  # fmt: skip
    ids = torch.ones(2 * len(chosen), 2, dtype=torch.long)
    inputs = {"input_ids": ids, "attention_mask": ids, **({"margin": margin} if with_margin else {})}
    theirs = trl.RewardTrainer.compute_loss(trainer, model, inputs).item()
    ours = losses(name, chosen, rejected, margin, center=center, **settings)
    assert ours.item() == pytest.approx(theirs, rel=1e-6)
