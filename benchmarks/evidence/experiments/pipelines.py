"""What stands around a loss: sampling candidates, and merging what was trained side by side."""

from __future__ import annotations

import random

import torch
from torch import Tensor

from evidence.experiment import Run, experiment
from evidence.product import Objective, method
from evidence.training import train
from evidence.worlds.bandit import LogLinear
from evidence.worlds.base import generators
from evidence.worlds.data import Pairs, Texts
from lit_align.data.rejection_sampling import rejection_sample
from lit_align.functional.merging import linear, ties
from lit_align.methods.paft import l1_norm

CANDIDATES, ACCEPTED, REPEATS = 64, 8, 3000


@experiment(
    claim="RSO's rejection sampling draws nearly from the optimal policy; samples of SFT, or the best, do not",
    paper="RSO, arXiv 2309.06657",
    world="10 responses with random rewards; policy of SFT and its optimum at beta 0.5.",
    budget="8 of 64 candidates, 3000 times",
    seeds=3,
)
def rejection_sampling(run: Run) -> None:
    """Total variation between what is accepted and the optimum."""
    columns: dict[str, list[float]] = {}
    for seed, generator in enumerate(generators(run.seeds)):
        logits, reward = torch.randn(2, 10, generator=generator, dtype=torch.float64)
        sft, wanted = logits.softmax(0), (logits + reward / 0.5).softmax(0)
        draws = random.Random(seed)
        counts = {
            name: torch.zeros(10, dtype=torch.float64) for name in ("rejection sampling", "best 8", "SFT samples")
        }
        for _ in range(run.steps(REPEATS)):
            candidates = torch.multinomial(sft, CANDIDATES, replacement=True, generator=generator)
            scores = reward[candidates]
            accepted = rejection_sample(scores.tolist(), 0.5, ACCEPTED, iter(draws.random, None))
            for name, chosen in (
                ("rejection sampling", candidates[accepted]),
                ("best 8", candidates[scores.topk(ACCEPTED).indices]),
                ("SFT samples", candidates[:ACCEPTED]),
            ):
                counts[name] += torch.bincount(chosen, minlength=10)
        for name, count in counts.items():
            columns.setdefault(name, []).append(float((count / count.sum() - wanted).abs().sum() / 2))
    for name, values in columns.items():
        run.measure(name, distance=torch.tensor(values, dtype=torch.float64))
    run.expect("distance", "rejection sampling", "<", 0.05)
    run.expect("distance", "SFT samples", ">", 0.05)
    run.expect_order("distance", "<", "rejection sampling", "best 8")
    run.compare_with_spec("distance", "rejection sampling", (0.003, 0.004, 0.005))
    run.plot_bars("distance")


class Skills(LogLinear):
    """A skill to imitate in ten features, a preference in ten others, of sixty; prompts to train on and to measure on.

    Args:
        seeds: number of seeds, from 0.
    """

    prompts, trained, responses, dimensions = 40, 30, 12, 60

    def __init__(self, seeds: int) -> None:
        self.generators = generators(seeds)
        shape = (self.prompts, self.responses, self.dimensions)
        features = torch.stack([torch.randn(shape, generator=g, dtype=torch.float64) for g in self.generators])
        reference = torch.zeros(seeds, self.prompts, self.responses, dtype=torch.float64).log_softmax(-1)
        super().__init__(features, reference)
        drawn = torch.stack([torch.randn(2, 10, generator=g, dtype=torch.float64) for g in self.generators])
        skill, taste = torch.zeros(2, seeds, self.dimensions, dtype=torch.float64)
        skill[:, :10], taste[:, 10:20] = drawn.unbind(1)
        self.skill = self.state(skill)
        self.reward = self.value(taste)

    def demonstrations(self, each: int = 4) -> Texts:
        """Responses of a policy with the skill."""
        rows = []
        for seed, generator in enumerate(self.generators):
            table = self.skill[seed, : self.trained].exp()
            responses = torch.multinomial(table, each, replacement=True, generator=generator).flatten()
            prompt = torch.arange(self.trained).repeat_interleave(each)
            rows.append((torch.full_like(prompt, seed), prompt, responses))
        return Texts(*(torch.cat(column) for column in zip(*rows, strict=True)))

    def pairs(self, each: int = 4) -> Pairs:
        """Random pairs, labelled by Bradley-Terry."""
        rows = []
        for seed, generator in enumerate(self.generators):
            prompt = torch.arange(self.trained).repeat_interleave(each)
            one = torch.randint(0, self.responses, prompt.shape, generator=generator)
            two = (one + torch.randint(1, self.responses, prompt.shape, generator=generator)) % self.responses
            gap = self.reward[seed, prompt, one] - self.reward[seed, prompt, two]
            wins = torch.rand(len(prompt), generator=generator) < gap.sigmoid()
            chosen, rejected = torch.where(wins, one, two), torch.where(wins, two, one)
            rows.append((torch.full_like(prompt, seed), prompt, chosen, rejected))
        return Pairs(*(torch.cat(column) for column in zip(*rows, strict=True)))

    def held_out(self, theta: Tensor) -> dict[str, Tensor]:
        """On prompts not trained on: negative log-likelihood of the skill, and accuracy of the implicit reward, [S]."""
        where = slice(self.trained, None)
        nll = -(self.skill.exp() * self.state(theta))[:, where].sum(-1).mean(-1)
        mine, true = (
            (value[:, where, :, None] - value[:, where, None, :]) for value in (self.value(theta), self.reward)
        )
        upper = torch.triu(torch.ones(self.responses, self.responses, dtype=torch.bool), 1)
        return {"nll": nll, "preference_accuracy": (mine * true > 0)[..., upper].double().mean((1, 2))}


@experiment(
    claim="PAFT: sparse fine-tuning, merged with a preference trained beside it, interferes less than dense",
    paper="PAFT, arXiv 2406.17923",
    world=(
        "Log-linear, 60 features: a skill in 10 of them, a preference in 10 others; 30 prompts to train, 10 held out."
    ),
    budget="800 full-batch steps of Adam 0.01 for each part; L1 0.02, DPO beta 0.5",
    discussion=(
        "The dense and the sparse merge differ by a hundredth in accuracy, less than seeds do. In a log-linear "
        "model training one after the other and adding up both changes are the same, so this says nothing of "
        "parallel against sequential training."
    ),
)
def parallel_training(run: Run) -> None:
    """Sparsity of the fine-tuning; accuracy of preferences and likelihood of demonstrations after merging."""
    if not run.needs("SparseSFT"):
        return
    world = Skills(run.seeds)
    demonstrations, pairs = world.demonstrations(), world.pairs()
    sft, dpo = run.present(method("SparseSFT", "SFT", l1_weight=0.0), method("DPO", beta=0.5))
    imitate = Objective(world, sft, demonstrations)

    def fitted(objective) -> Tensor:
        return train(objective, world.start(), run.steps(800), 0.01)

    dense = fitted(imitate)
    sparse = fitted(lambda theta: imitate(theta) + 0.02 * torch.stack([l1_norm(row) for row in theta]))
    preference = fitted(Objective(world, dpo, pairs))
    merged = {
        "DPO alone": preference,
        "SFT alone": dense,
        "dense + DPO": linear([dense, preference], [1.0, 1.0]),
        "sparse + DPO": linear([sparse, preference], [1.0, 1.0]),
        "sparse + DPO by TIES": torch.stack(
            [ties([a, b], [1.0, 1.0], 0.5) for a, b in zip(sparse, preference, strict=True)]
        ),
    }
    for label, theta in merged.items():
        run.measure(label, **world.held_out(theta))
    for label, theta in (("dense SFT", dense), ("sparse SFT", sparse)):
        run.measure(label, share_near_zero=(theta.abs() < 1e-2).double().mean(1))
    run.expect("share_near_zero", "sparse SFT", ">", "dense SFT", by=0.2)
    run.expect("preference_accuracy", "sparse + DPO", ">", "dense + DPO")
    run.expect("nll", "sparse + DPO", "<", "DPO alone")
    run.plot_bars("preference_accuracy", "nll", "share_near_zero")
