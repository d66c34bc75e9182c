"""Rewards where raters like length: resampled pairs, and a head of its own for length."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from evidence.experiment import Run, experiment
from evidence.product import method
from evidence.rewards import RewardLoss
from evidence.training import train
from evidence.worlds.answers import order_accuracy
from evidence.worlds.scorers import Head, Scorers, TwoHeads
from evidence.worlds.wordy import Raters, Wordy
from lit_align.data.length_balance import balance, quantile_edges, thin_out
from lit_align.functional.rewards import correlation

WORLD = (
    "Answers of 16 features, which mix quality, logarithm of length and noise; raters' log-odds are 1.5 of quality and "
    "1.2 of the logarithm of length."
)
PAIRS = 2000


@experiment(
    claim="If at every difference in length the longer answer wins half of the pairs, rewards follow length less",
    paper="length-balanced resampling of pairs; after Singhal et al., arXiv 2310.03716",
    world=WORLD,
    budget=f"linear head; {PAIRS} pairs, 300 full-batch steps of Adam 0.03",
    discussion="accuracy is that of quality alone, on fresh pairs.",
)
def reward_length_balance(run: Run) -> None:
    """Correlation of the reward with length, and accuracy on quality."""
    world = Raters(run.seeds)
    pairs, test = world.pairs(PAIRS), world.pairs(4000)
    weights = {"Bradley-Terry": None} | {
        label: _weights(pairs.length, thin=thin) for label, thin in (("weighed", False), ("thinned", True))
    }
    scorers = Scorers(lambda: Head(world.dimensions), run.seeds)
    for label, weight in weights.items():
        (one,) = run.present(method("BradleyTerry", label))
        facts = {} if weight is None else {"weight": weight}
        loss = RewardLoss(one, run.seeds)

        def objective(theta: Tensor, loss=loss, facts=facts) -> Tensor:
            return loss(*scorers(theta, pairs.features).unbind(1), **facts)

        theta = train(objective, scorers.start(), run.steps(300), 0.03)
        with torch.no_grad():
            _measure(run, label, scorers(theta, test.features), test)
    run.measure("70 % of Bradley-Terry's", correlation_with_length=0.7 * _of(run, "Bradley-Terry"))
    for label in ("weighed", "thinned"):
        run.expect("correlation_with_length", label, "<", "70 % of Bradley-Terry's")
        run.expect("accuracy", label, ">", "Bradley-Terry")
    run.plot_bars("correlation_with_length", "accuracy")


def _of(run: Run, label: str) -> Tensor:
    return torch.tensor(run.measures["correlation_with_length"][label], dtype=torch.float64)


def _weights(lengths: Tensor, *, thin: bool) -> Tensor:
    """The product's weights [S, N] of pairs, 1 on average, from the lengths [S, 2, N] of their answers."""
    rows = []
    for seed, own in enumerate(lengths.long()):
        differences = (own[0] - own[1]).tolist()
        edges = quantile_edges(differences)
        result = thin_out(differences, edges, seed) if thin else balance(differences, edges)
        weights = torch.tensor(result.weights, dtype=torch.float64)
        rows.append(weights / weights.mean())
    return torch.stack(rows)


def _measure(run: Run, label: str, scores: Tensor, test: Wordy) -> None:
    """Measure rewards [S, 2, N] of fresh pairs."""
    pairs = zip(scores.flatten(1), test.length.flatten(1), strict=True)
    run.measure(
        label,
        correlation_with_length=torch.stack([correlation(*own)[0] for own in pairs]),
        accuracy=order_accuracy(torch.sub(*scores.unbind(1)), torch.sub(*test.quality.unbind(1))),
    )


@experiment(
    claim="Two heads, one made to follow length and one not to, leave a quality that does not depend on length",
    paper="ODIN, arXiv 2402.07319",
    world=WORLD,
    budget=f"linear trunk of 16 units and head(s); {PAIRS} pairs, 300 full-batch steps of Adam 0.03",
    discussion="accuracy is that of quality alone, on fresh pairs; heads are normalised as the product does it.",
)
def reward_odin(run: Run) -> None:
    """Correlation of the reward with length, and accuracy on quality."""
    world = Raters(run.seeds)
    pairs, test = world.pairs(PAIRS), world.pairs(4000)
    lengths = dict(zip(("chosen_lengths", "rejected_lengths"), pairs.length.unbind(1), strict=True))
    plain, odin = run.present(method("BradleyTerry", "Bradley-Terry"), method("ODIN"))
    networks = (
        (plain, lambda: nn.Sequential(nn.Linear(world.dimensions, 16, bias=False), Head(16))),
        (odin, lambda: TwoHeads(world.dimensions, 16)),
    )
    for one, build in networks:
        scorers, loss = Scorers(build, run.seeds), RewardLoss(one, run.seeds)

        def objective(theta: Tensor, one=one, scorers=scorers, loss=loss) -> Tensor:
            outputs = scorers(theta, pairs.features)
            if one is plain:
                return loss(*outputs.unbind(1))
            facts = {**lengths, "overlap": outputs[:, 0, 0, 2]}
            return loss(*outputs[..., :2].unbind(1), **facts)

        theta = train(objective, scorers.start(), run.steps(300), 0.03)
        with torch.no_grad():
            outputs = scorers(theta, test.features)
        _measure(run, one.label, outputs if one is plain else outputs[..., 0], test)
        if one is odin:
            _measure(run, "ODIN's length", outputs[..., 1], test)
    run.expect("correlation_with_length", "ODIN", "<", 0.1)
    run.expect("correlation_with_length", "ODIN", ">", -0.1)
    run.expect("accuracy", "ODIN", ">", "Bradley-Terry")
    run.plot_bars("correlation_with_length", "accuracy")
