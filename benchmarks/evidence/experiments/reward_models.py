"""Reward models from pairs: what they learn, what margins and regularisers change, scores before the end."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from evidence.experiment import Run, experiment
from evidence.product import Method, method
from evidence.rewards import Epochs, RewardLoss, rows
from evidence.training import train
from evidence.worlds.answers import Answers, Compared, Texts, agreement, order_accuracy
from evidence.worlds.scorers import Scorers, Transformer, mlp

TEXTS = "Texts of 12 tokens out of 50; each token has a value, quality is their sum, raters follow Bradley-Terry"
TEXT_BUDGET = "causal transformer of 2 layers, width 32; one epoch in batches of 50 pairs, Adam 0.003"
MLP = "MLP with 32 hidden units"


@experiment(
    claim="A Bradley-Terry reward model orders fresh pairs nearly as well as anyone can who does not know the rater",
    paper="Christiano et al., arXiv 1706.03741; InstructGPT, 2203.02155",
    world=TEXTS + ".",
    budget=TEXT_BUDGET + ", 12000 pairs",
    discussion=(
        "accuracy: how often a fresh rater agrees, computed exactly for 2000 new pairs; best possible: that of the "
        "true quality, since raters err."
    ),
)
def reward_bradley_terry(run: Run) -> None:
    """Agreement with fresh raters, before and after training."""
    world = Texts(run.seeds)
    train_on, test = world.pairs(12000), world.pairs(2000)
    scorers = Scorers(lambda: Transformer(world.vocabulary, world.length), run.seeds)
    (one,) = run.present(method("BradleyTerry", "Bradley-Terry"))
    theta = read_texts(run, scorers, one, train_on)
    for label, weights in (("untrained", scorers.start()), (one.label, theta)):
        run.measure(label, accuracy=agreement(differences(scorers, weights, test)[..., -1], test.gap))
    run.measure("best possible", accuracy=agreement(test.gap, test.gap))
    run.expect("accuracy", "Bradley-Terry", ">", "best possible", by=-0.05)
    run.expect("accuracy", "untrained", ">", 0.45)
    run.expect("accuracy", "untrained", "<", 0.6)
    run.plot_bars("accuracy")


@experiment(
    claim="Scores that are trained at every token after two texts part also rank beginnings; end scores lose nothing",
    paper="DeepSpeed-Chat, arXiv 2308.01320",
    world=TEXTS + "; a pair shares up to 8 first tokens; with a token that ends texts, or without.",
    budget=TEXT_BUDGET + ", 5000 pairs",
    discussion=(
        "order of beginnings: pairs of fresh texts without a shared part, by the score of token 6 of 12 and by the "
        "sum of the first 6 values, which is all that can be known of the quality there. Without an end token, a "
        "score that is trained at the last token is right at the others too, since there one and the same sum is "
        "wanted; with one, as texts have it, it is never trained where a text goes on."
    ),
)
def reward_tokens(run: Run) -> None:
    """How well scores at the last token and in the middle order texts."""
    world = Texts(run.seeds)
    train_on, test = world.pairs(5000, shared=8), world.pairs(2000)
    middle = world.length // 2 - 1
    worth = world.worth(test.chosen)[..., middle] - world.worth(test.rejected)[..., middle]
    for ends, more in (("no end token", 0), ("end token", 1)):
        scorers = Scorers(lambda more=more: Transformer(world.vocabulary + more, world.length + more), run.seeds)
        last, every = run.present(
            method("BradleyTerry", f"last token only, {ends}"), method("TokenReward", f"every token, {ends}")
        )
        pairs, fresh = (
            pairs._replace(chosen=_ended(pairs.chosen, world, more), rejected=_ended(pairs.rejected, world, more))
            for pairs in (train_on, test)
        )
        for one in (last, every):
            theta = read_texts(run, scorers, one, pairs)
            margins = differences(scorers, theta, fresh)
            run.measure(
                one,
                accuracy=agreement(margins[..., -1], test.gap),
                order_of_beginnings=order_accuracy(margins[..., middle], worth),
            )
        run.expect("order_of_beginnings", every.label, ">", last.label, by=0.05)
        run.expect("accuracy", every.label, ">", last.label, by=-0.03)
    run.plot_bars("accuracy", "order_of_beginnings")


def _ended(texts: Tensor, world: Texts, tokens: int) -> Tensor:
    """The texts [S, N, T] with so many end tokens."""
    return torch.nn.functional.pad(texts, (0, tokens), value=world.vocabulary)


def read_texts(run: Run, scorers: Scorers, one: Method, pairs: Compared) -> Tensor:
    """Weights of transformers after training on pairs of texts, at the last token or at every one."""
    loss = RewardLoss(one, run.seeds)
    size, number = 50, pairs.gap.shape[1]

    def objective(theta: Tensor, index: Tensor) -> Tensor:
        texts = [rows(side, index) for side in pairs[:2]]
        scores = scorers(theta, torch.cat(texts, 1)).chunk(2, 1)
        if one.name != "TokenReward":
            return loss(*(values[..., -1] for values in scores))
        return loss(*scores, mask=(texts[0] != texts[1]).cumsum(-1) > 0)

    steps = run.steps(number // size)
    return train(Epochs(objective, run.seeds, number, size), scorers.start(), steps, 0.003)


@experiment(
    claim="With margins a reward model sets clear wins further apart, and is as right about them as without",
    paper="Llama 2, arXiv 2307.09288",
    world="Answers of 10 features with a bent quality; raters choose, and say which quarter of true gaps a pair is of.",
    budget=f"{MLP}; 400 pairs, 300 full-batch steps of Adam 0.01",
    seeds=10,
    discussion=(
        "gap ratio: mean difference of scores of fresh pairs in the clearest quarter over that in the closest, with "
        "the truly better answer first. It does not depend on the scale of the scores."
    ),
)
def reward_margin(run: Run) -> None:
    """Scores and accuracy by the size of the true gap."""
    world = Answers(run.seeds, bend=1.0)
    train_on, test = world.pairs(400), world.pairs(4000, raters=False)
    edges = test.gap.abs().quantile(torch.tensor([0.25, 0.5, 0.75], dtype=torch.float64), dim=1).T
    level, true_level = ((pairs.gap.abs()[..., None] > edges[:, None]).sum(-1) for pairs in (train_on, test))
    scorers = Scorers(lambda: mlp(world.dimensions), run.seeds)
    for one in run.present(
        method("BradleyTerry", "no margin", use_margin=False),
        method("MarginReward", "small", margins="small"),
        method("MarginReward", "large", margins="large"),
    ):
        theta = fit_pairs(run, scorers, one, train_on, steps=300, margin=level.double())
        margins = differences(scorers, theta, test)
        top, low = ((margins * (true_level == which)).sum(1) / (true_level == which).sum(1) for which in (3, 0))
        right = (margins > 0) & (true_level == 3)
        run.measure(
            one,
            gap_of_clear_wins=top,
            gap_ratio=top / low,
            accuracy_of_clear_wins=right.sum(1) / (true_level == 3).sum(1),
            accuracy=order_accuracy(margins, test.gap),
        )
    for label in ("small", "large"):
        run.expect("gap_of_clear_wins", label, ">", "no margin")
        run.expect("gap_ratio", label, ">", "no margin")
        run.expect("accuracy_of_clear_wins", label, ">", "no margin", by=-0.01)
    run.plot_bars("gap_of_clear_wins", "gap_ratio", "accuracy_of_clear_wins")


@experiment(
    claim="Centring brings the mean reward near 0 at no cost in accuracy; an L2 penalty shrinks margins",
    paper="Eisenstein et al., arXiv 2312.09244; L2: Safe-RLHF, 2310.12773",
    world="Answers of 10 features with a bent quality; raters choose. Few pairs (500), or many (2000).",
    budget=f"{MLP}; 200 full-batch steps of Adam 0.02",
    discussion=(
        "With few pairs this budget learns them by heart, and centring costs much: a pair's scores shall add up to 0, "
        "also where both answers are good, and that is met by learning the pair and not its answers. L2 costs less. "
        "With many pairs neither costs anything. Both bring the mean near 0."
    ),
)
def reward_centering(run: Run) -> None:
    """Mean reward, margin and accuracy on fresh answers."""
    world = Answers(run.seeds, bend=1.0)
    many, test = world.pairs(2000), world.pairs(4000)
    scorers = Scorers(lambda: mlp(world.dimensions), run.seeds)
    for number in (500, 2000):
        plain, centred, shrunk = (f"{name}, {number} pairs" for name in ("plain", "center 0.01", "L2 0.001"))
        for one in run.present(
            method("BradleyTerry", plain),
            method("BradleyTerry", centred, center=0.01),
            method("BradleyTerry", shrunk, l2=0.001),
        ):
            theta = fit_pairs(run, scorers, one, many.take(number), steps=200, learning_rate=0.02)
            with torch.no_grad():
                mean = scorers(theta, torch.cat(test[:2], 1)).mean(1).abs()
            margins = differences(scorers, theta, test)
            accuracy = agreement(margins, test.gap)
            run.measure(one, size_of_mean_reward=mean, accuracy=accuracy, size_of_margins=margins.abs().mean(1))
            if one.label == plain:
                run.measure(f"a fifth of {plain}", size_of_mean_reward=mean / 5)
        run.expect("size_of_mean_reward", centred, "<", f"a fifth of {plain}")
        run.expect("accuracy", centred, ">", plain, by=-0.05)
        run.expect("size_of_margins", shrunk, "<", plain)
    run.plot_bars("size_of_mean_reward", "accuracy", "size_of_margins")


def fit_pairs(
    run: Run,
    scorers: Scorers,
    one: Method,
    pairs: Compared,
    *,
    steps: int,
    learning_rate: float = 0.01,
    start: Tensor | None = None,
    after_step: Callable[[int, Tensor], None] | None = None,
    **facts: Tensor,
) -> Tensor:
    """Weights after full-batch training on pairs, from `start` where that is given."""
    loss = RewardLoss(one, run.seeds)
    sides = torch.cat(pairs[:2], 1)

    def objective(theta: Tensor) -> Tensor:
        return loss(*scorers(theta, sides).chunk(2, 1), **facts)

    start = scorers.start() if start is None else start
    return train(objective, start, run.steps(steps), learning_rate, after_step=after_step)


def differences(scorers: Scorers, theta: Tensor, pairs: Compared) -> Tensor:
    """Scores of chosen answers less those of rejected ones, [S, N], without gradient."""
    with torch.no_grad():
        return scorers(theta, pairs.chosen) - scorers(theta, pairs.rejected)
