"""Reward models from other feedback than pairs: lists, ratings, comparisons with both in sight, signs of safety."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn

from evidence.experiment import Run, experiment
from evidence.experiments.reward_models import MLP, differences, fit_pairs
from evidence.product import method
from evidence.rewards import Epochs, RewardLoss, rows
from evidence.training import train
from evidence.worlds.answers import Answers, Compared, agreement, order_accuracy, rater_loss
from evidence.worlds.scorers import Head, Scorers, mlp
from lit_align.core.batch import Counts, ListBatch, PairBatch
from lit_align.core.outputs import reduce_terms
from lit_align.functional.preferences import both_orders


class Vectors(NamedTuple):
    """Answers as the product's batches hold rows."""

    features: Tensor
    """[M, d]."""


class CountedCalls:
    """One seed's network in the place of a policy; counts what it is asked to score."""

    def __init__(self, scorers: Scorers) -> None:
        self.scorers, self.theta, self.answers = scorers, torch.empty(0), 0

    def __call__(self, rows: Vectors) -> Tensor:
        """Scores [M]."""
        self.answers += len(rows.features)
        return self.scorers(self.theta[None], rows.features[None])[0]


PROMPTS, ANSWERS = 200, 6


@experiment(
    claim="Comparing all K answers of a prompt in one step takes K passes, not K (K - 1), and learns as much",
    paper="InstructGPT, arXiv 2203.02155",
    world="Answers of 10 features with a bent quality; 200 prompts, 6 answers each, ranked as by Plackett-Luce.",
    budget=f"{MLP}; one epoch, Adam 0.01; K-wise 8 prompts a step",
    discussion=(
        "Both go through the product's own step, which is counted. Shuffled pairs are 120 a step, as many comparisons "
        "as K-wise makes, or 24, as many forward passes. loss: expected negative log-likelihood of fresh raters. In "
        "one epoch small batches of pairs are ahead, as they take five times the steps and the passes; given as many "
        "of both, K-wise is far ahead."
    ),
)
def reward_kwise(run: Run) -> None:
    """Forward passes of an epoch, and the loss on fresh pairs."""
    world = Answers(run.seeds, bend=1.0)
    answers, test = world.answers(PROMPTS, ANSWERS), world.pairs(4000)
    gumbel = -world.uniform(PROMPTS, ANSWERS).log().neg().log()
    order = (world.quality(answers) + gumbel).argsort(2, descending=True)
    ranked = answers.gather(2, order[..., None].expand_as(answers))
    scorers = Scorers(lambda: mlp(world.dimensions), run.seeds)
    for label, name, size, epochs in (
        ("K-wise", "KWiseReward", 8, 1),
        ("K-wise, 5 epochs", "KWiseReward", 8, 5),
        ("pairs, 120 a step", "BradleyTerry", 120, 1),
        ("pairs, 24 a step", "BradleyTerry", 24, 1),
    ):
        (one,) = run.present(method(name, label))
        modules, calls = [one.build() for _ in range(run.seeds)], [CountedCalls(scorers) for _ in range(run.seeds)]
        for module, policy in zip(modules, calls, strict=True):
            module.policy = policy
        data = ranked if name == "KWiseReward" else _all_pairs(ranked)

        def objective(theta: Tensor, index: Tensor, data=data, modules=modules, calls=calls) -> Tensor:
            losses = []
            for module, policy, own, lists in zip(modules, calls, theta, rows(data, index), strict=True):
                policy.theta = own
                terms = module.terms(_batch(lists, paired=data is not ranked))
                losses.append(reduce_terms(terms, Counts(len(lists), len(lists))))
            return torch.stack(losses)

        steps = run.steps(epochs * data.shape[1] // size)
        theta = train(Epochs(objective, run.seeds, data.shape[1], size), scorers.start(), steps, 0.01)
        margins = differences(scorers, theta, test)
        passes = torch.tensor([policy.answers for policy in calls]) / PROMPTS
        run.measure(
            label,
            passes_per_prompt=passes.double() / epochs,
            loss=rater_loss(margins, test.gap),
            accuracy=agreement(margins, test.gap),
        )
    run.expect("passes_per_prompt", "K-wise", "<", 6.001, note="exactly K = 6")
    for label in ("pairs, 120 a step", "pairs, 24 a step"):
        run.expect("passes_per_prompt", label, ">", 29.999, note="exactly K (K - 1) = 30")
        run.expect("loss", "K-wise", "<", label, by=-0.02)
    run.expect("loss", "K-wise, 5 epochs", "<", "pairs, 24 a step", by=-0.02, note="as many passes and as many steps")
    run.plot_bars("passes_per_prompt", "loss", "accuracy")


def _all_pairs(ranked: Tensor) -> Tensor:
    """Every pair of each list [S, P, K, d], better answer first, as an example of its own: [S, N, 2, d]."""
    return ranked[:, :, torch.combinations(torch.arange(ranked.shape[2]))].flatten(1, 2)


def _batch(lists: Tensor, *, paired: bool) -> ListBatch | PairBatch:
    """The product's batch of lists [B, K, d], best answer first, or of pairs [B, 2, d]."""
    held: Vectors = Vectors(lists.flatten(0, 1))
    places, numbers = torch.arange(lists.shape[0] * lists.shape[1]).view(lists.shape[:2]), torch.arange(len(lists))
    if paired:
        return PairBatch(held, *places.T, source_rows=numbers)
    falling = -torch.arange(lists.shape[1], dtype=torch.float64).expand(places.shape)
    return ListBatch(held, places, torch.ones_like(places, dtype=torch.bool), falling, numbers)


ATTRIBUTES = {"helpful": 0.65, "correct": 0.8, "wordy": -0.4}


@experiment(
    claim="From ratings with gaps a head for each attribute predicts them, and their weighted sum ranks answers",
    paper="HelpSteer, arXiv 2311.09528; HelpSteer2, 2406.08673",
    world="Answers of 10 features, 3 attributes linear in them; ratings have noise of spread 0.3, 20 % are missing.",
    budget="linear heads; 200 rated answers, or 50 pairs by their weighted sum; 300 steps of Adam 0.03",
    discussion="determination: 1 - error / variance against fresh ratings, whose noise leaves 0.92 at most.",
)
def reward_regression(run: Run) -> None:
    """R squared of each attribute, and how well the weighted sum orders fresh answers."""
    world = Answers(run.seeds)
    weights = torch.tensor(list(ATTRIBUTES.values()), dtype=torch.float64)
    directions = world.normal(world.dimensions, len(ATTRIBUTES)) / world.dimensions**0.5
    world.taste = 2 * (directions @ weights) / world.scale
    answers, fresh = world.answers(200, 1)[:, :, 0], world.answers(2000, 1)[:, :, 0]
    pairs, test = world.pairs(50), world.pairs(4000, raters=False)
    ratings = answers @ directions + 0.3 * world.normal(200, len(ATTRIBUTES))
    ratings[world.uniform(200, len(ATTRIBUTES)) < 0.2] = torch.nan
    targets = fresh @ directions + 0.3 * world.normal(2000, len(ATTRIBUTES))
    one, other = run.present(
        method("RegressionReward", "regression", attributes=list(ATTRIBUTES), weights=ATTRIBUTES),
        method("BradleyTerry", "Bradley-Terry, 50 pairs"),
    )
    loss = RewardLoss(one, run.seeds)
    heads = Scorers(lambda: Head(world.dimensions, len(ATTRIBUTES)), run.seeds)
    theta = train(lambda theta: loss(heads(theta, answers), ratings), heads.start(), run.steps(300), 0.03)
    with torch.no_grad():
        errors = (heads(theta, fresh) - targets).square().mean(1) / targets.var(1)
        sides = [loss.modules[0].response_scores(heads(theta, side)) for side in test[:2]]
    for number, name in enumerate(ATTRIBUTES):
        run.measure(name, determination=1 - errors[:, number])
        run.expect("determination", name, ">", 0.8)
    single = Scorers(lambda: Head(world.dimensions), run.seeds)
    ranked = fit_pairs(run, single, other, pairs, steps=300, learning_rate=0.03)
    run.measure(one, accuracy=order_accuracy(torch.sub(*sides), test.gap))
    run.measure(other, accuracy=order_accuracy(differences(single, ranked, test), test.gap))
    run.expect("accuracy", "regression", ">", "Bradley-Terry, 50 pairs")
    run.plot_bars("determination", "accuracy")


CIRCLE = torch.tensor([[0.5, 0.9, 0.2], [0.1, 0.5, 0.8], [0.8, 0.2, 0.5]], dtype=torch.float64)
"""Probability that an answer of the kind of the row beats one of the kind of the column."""


@experiment(
    claim="Where preferences go in a circle, a model that reads both answers follows them, and no score can",
    paper="Nash Learning from Human Feedback, arXiv 2312.00886; PairRM, 2306.02561",
    world="Answers of three kinds, seen in 6 noisy features; kind 1 beats 2 (0.9), 2 beats 3 (0.8), 3 beats 1 (0.8).",
    budget=f"{MLP}, of one answer or of both; 600 pairs, 200 full-batch steps of Adam 0.02",
    discussion=(
        "agreement: with fresh raters, computed exactly; knowing the kinds one reaches 0.833, and with a score 0.633. "
        "The pairwise model is asked in both orders. Trained scores stay below their best: what differs between kinds "
        "is small, and they fit noise."
    ),
)
def reward_circle(run: Run) -> None:
    """Agreement with fresh raters."""
    world = Answers(run.seeds, dimensions=6)
    centres = 2 * world.normal(3, world.dimensions)

    def draw(number: int) -> tuple[Tensor, Tensor]:
        kinds = (3 * world.uniform(number)).long()
        kinds = torch.stack([kinds, (kinds + 1 + (2 * world.uniform(number)).long()) % 3], 2)
        seen = centres[torch.arange(run.seeds)[:, None, None], kinds] + 0.5 * world.normal(number, 2, world.dimensions)
        return seen, CIRCLE[kinds[..., 0], kinds[..., 1]]

    (answers, likes), (fresh, fresh_likes) = draw(600), draw(4000)
    wins = world.uniform(600) < likes
    first = torch.where(wins[..., None, None], answers, answers.flip(2))
    score, both = run.present(method("BradleyTerry", "score"), method("PairwisePreference", "both in sight"))
    scorers = Scorers(lambda: mlp(world.dimensions), run.seeds)
    theta = fit_pairs(run, scorers, score, Compared(*first.unbind(2), gap=likes), steps=200, learning_rate=0.02)
    margins = differences(scorers, theta, Compared(*fresh.unbind(2), gap=fresh_likes))
    run.measure(score, agreement=_agreement(margins, fresh_likes))

    readers, loss = Scorers(lambda: mlp(2 * world.dimensions), run.seeds), RewardLoss(both, run.seeds)
    orders = torch.cat([first.flatten(2), first.flip(2).flatten(2)], 1)
    theta = train(lambda theta: loss(*readers(theta, orders).chunk(2, 1)), readers.start(), run.steps(200), 0.02)
    with torch.no_grad():
        logits = [readers(theta, texts.flatten(2)) for texts in (fresh, fresh.flip(2))]
    run.measure(both, agreement=_agreement(both_orders(*logits) - 0.5, fresh_likes))
    run.expect("agreement", "both in sight", ">", "score", by=0.1)
    run.plot_bars("agreement")


def _agreement(margins: Tensor, likes: Tensor) -> Tensor:
    """How often [S] raters, who like the first answer with probability `likes` [S, N], agree with margins [S, N]."""
    return torch.where(margins > 0, likes, 1 - likes).mean(1)


HARM = -1.0
"""Answers of this quality are neither safe nor unsafe; most are better."""


@experiment(
    claim="A cost model learns which answer is safer and which ones are safe, each as well as a model of that alone",
    paper="Safe RLHF, arXiv 2310.12773",
    world=(
        "Answers of 10 features, the cost is linear in them, two thirds are safe; raters choose the safer one of two, "
        "and judge each answer."
    ),
    budget="linear head and bias; 300 pairs, 300 full-batch steps of Adam 0.03",
    discussion=(
        "Judgements follow the sigmoid of the cost; pairs whose safer answer alone is called unsafe are dropped, as by "
        "the product. order and signs: how often fresh raters agree on which of two is safer, and on whether one is "
        "safe. Judgements of all answers tell almost all about the order too: the gain is a fifth of a point."
    ),
)
def reward_cost(run: Run) -> None:
    """Agreement with fresh raters on the order of two answers, and on the sign of each."""
    world = Answers(run.seeds)
    pairs, test = world.pairs(1000), world.pairs(4000)
    # Quality is minus the cost, up to the constant that says where harm begins.
    harm = [HARM - world.quality(side) for side in pairs[:2]]
    safe = [world.uniform(1000) > cost.sigmoid() for cost in harm]
    index = (safe[0] | ~safe[1]).long().argsort(dim=1, descending=True, stable=True)[:, :300]
    assert (safe[0] | ~safe[1]).sum(1).min() >= 300, "too few pairs without contradiction"
    pairs = Compared(*(rows(part, index) for part in pairs))
    safe = [rows(part, index) for part in safe]
    scorers = Scorers(lambda: nn.Sequential(nn.Linear(world.dimensions, 1), nn.Flatten(0)), run.seeds)
    sides = torch.cat(pairs[:2], 1)
    fresh = torch.cat(test[:2], 1)
    fresh_harm = HARM - world.quality(fresh)
    for one in run.present(
        method("CostModel", "cost model"),
        method("BradleyTerry", "pairs only"),
        method("BinaryPreference", "judgements only"),
    ):
        loss = RewardLoss(one, run.seeds)
        facts = {"chosen_safe": safe[0], "rejected_safe": safe[1]} if one.name == "CostModel" else {}

        def objective(theta: Tensor, one=one, loss=loss, facts=facts) -> Tensor:
            scores = scorers(theta, sides)
            if one.name == "BinaryPreference":
                return loss(scores, torch.cat(safe, 1))
            return loss(*scores.chunk(2, 1), **facts)

        theta = train(objective, scorers.start(), run.steps(300), 0.03)
        with torch.no_grad():
            # Higher is better, whatever the head gives.
            scores = loss.modules[0].response_scores(scorers(theta, fresh))
        run.measure(
            one,
            order=agreement(torch.sub(*scores.chunk(2, 1)), test.gap),
            signs=agreement(-scores, fresh_harm),
        )
    run.measure("best possible", order=agreement(test.gap, test.gap), signs=agreement(fresh_harm, fresh_harm))
    for measure in ("order", "signs"):
        run.expect(measure, "cost model", ">", "best possible", by=-0.05)
    run.expect("signs", "cost model", ">", "pairs only")
    run.expect("signs", "cost model", ">", "judgements only", by=-0.01)
    run.expect("order", "cost model", ">", "pairs only", by=-0.01)
    run.expect("order", "cost model", ">", "judgements only")
    run.plot_bars("order", "signs")
