"""Askell et al.: ranked against binary preference models, and pre-training on rough preferences."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from evidence.experiment import Run, experiment
from evidence.experiments.reward_models import differences, fit_pairs
from evidence.product import Method, method
from evidence.rewards import Epochs, RewardLoss, rows
from evidence.training import train
from evidence.worlds.answers import Answers, Compared, order_accuracy
from evidence.worlds.scorers import Head, Scorers, mlp
from lit_align.data.canonical import CanonicalRow
from lit_align.data.convert import good_bad_pairs

OFFSET = 3.0
SIZES = (50, 100, 400)


@experiment(
    claim="From few pairs a ranked preference model is better than a classifier of good and bad answers",
    paper="Askell et al., arXiv 2112.00861",
    world=f"Answers of 10 features; both answers to a prompt share an offset of spread {OFFSET:g}; raters choose.",
    budget="linear head, 300 full-batch steps of Adam 0.03",
    seeds=20,
    discussion="The prompt's part in an answer cancels in pairs; a classifier has to learn to look past it.",
)
def reward_ranked_or_binary(run: Run) -> None:
    """How well fresh pairs are ordered, by number of pairs."""
    world = Answers(run.seeds, offset=OFFSET)
    most, test = world.pairs(max(SIZES)), world.pairs(2000, raters=False)
    scorers = Scorers(lambda: Head(world.dimensions), run.seeds)
    lines: dict[str, dict[float, str]] = {}
    for number in SIZES:
        pairs = most.take(number)
        sides, label = torch.cat(pairs[:2], 1), torch.arange(2 * number).expand(run.seeds, -1) < number
        ranked, binary = run.present(
            method("BradleyTerry", f"ranked, {number}"), method("BinaryPreference", f"binary, {number}")
        )
        loss = RewardLoss(binary, run.seeds)

        def objective(theta: Tensor, loss=loss, sides=sides, label=label) -> Tensor:
            return loss(scorers(theta, sides), label)

        fitted = fit_pairs(run, scorers, ranked, pairs, steps=300, learning_rate=0.03)
        classifier = train(objective, scorers.start(), run.steps(300), 0.03)
        for one, theta in ((ranked, fitted), (binary, classifier)):
            run.measure(one, accuracy=order_accuracy(differences(scorers, theta, test), test.gap))
            lines.setdefault(one.label.split(",")[0], {})[number] = one.label
        if number <= 100:
            run.expect("accuracy", ranked.label, ">", binary.label, by=0.02)
    run.plot_lines("accuracy", "pairs", lines, log_x=True)


ROUGH, CAREFUL, FLIPS = 2000, (10, 50, 200), 0.35


@experiment(
    claim="Pre-training on many rough preferences of another kind helps where careful ones are few",
    paper="Askell et al., arXiv 2112.00861",
    world=(
        f"Answers of 10 features, quality linear in them; rough pairs are {ROUGH}, of other answers (features shifted "
        f"by 1), {FLIPS:.0%} of them flipped."
    ),
    budget="MLP with 32 hidden units; one epoch on rough pairs in batches of 50, up to 100 full-batch steps; Adam 0.01",
    seeds=20,
    discussion=(
        "ranked: the rough pairs as they are; good or bad: as two pairs each, made by the product's conversion, in "
        "which a word says of an answer that it is good or bad, here one more input, 1 or -1, and 0 afterwards. "
        "Stopped in time: each seed at the step after which 500 held-out careful pairs are ordered best, which may be "
        "none. Without that, 100 steps on 10 or 50 pairs forget most of what rough pairs have taught. That good or bad "
        "transfers better than ranked is not what this world shows: the word is all that such pairs differ in, and "
        "without it the answers' order has to be learnt anew from the features that the word has taught."
    ),
)
def reward_pretraining(run: Run) -> None:
    """How well fresh pairs are ordered, by number of careful pairs."""
    world = Answers(run.seeds)
    rough = world.rated(world.answers(ROUGH, 2) + 1.0, raters=False)
    flipped = world.uniform(ROUGH) < FLIPS
    chosen, rejected = (torch.where(flipped[..., None], *sides) for sides in (rough[1::-1], rough[:2]))
    rough = _wordless(Compared(chosen, rejected, rough.gap))
    careful, held_out = _wordless(world.pairs(max(CAREFUL))), _wordless(world.pairs(500))
    test = _wordless(world.pairs(4000, raters=False))
    scorers = Scorers(lambda: mlp(world.dimensions + 1), run.seeds)
    tuning, ranked, words = run.present(
        method("BradleyTerry", "none"),
        method("PreferencePretraining", "ranked"),
        method("PreferencePretraining", "good or bad"),
    )
    starts = (
        (tuning, scorers.start()),
        (ranked, pretrain(run, scorers, ranked, rough)),
        (words, pretrain(run, scorers, words, said_good_or_bad(rough))),
    )
    lines: dict[str, dict[float, str]] = {}
    for one, start in starts:
        for number in CAREFUL:
            label = f"{one.label}, {number}"
            best = Best(scorers, start, held_out)
            last = fit_pairs(
                run, scorers, tuning, careful.take(number), steps=100, start=start, after_step=best.after_step
            )
            for measure, theta in (("accuracy_stopped_in_time", best.theta), ("accuracy_after_100_steps", last)):
                run.measure(label, **{measure: order_accuracy(differences(scorers, theta, test), test.gap)})
            lines.setdefault(one.label, {})[number] = label
    for measure in ("accuracy_stopped_in_time", "accuracy_after_100_steps"):
        for number in CAREFUL[:2]:
            for kind in ("ranked", "good or bad"):
                run.expect(measure, f"{kind}, {number}", ">", f"none, {number}")
        run.plot_lines(measure, "careful pairs", lines, log_x=True)
    stopped = (f"{kind}, {CAREFUL[1]}" for kind in ("good or bad", "ranked"))
    run.expect_order("accuracy_stopped_in_time", ">", *stopped)


class Best:
    """Each seed's weights at the step after which held-out pairs are ordered best.

    Args:
        scorers: the networks.
        start: weights before the first step.
        held_out: pairs that raters have ordered.
    """

    def __init__(self, scorers: Scorers, start: Tensor, held_out: Compared) -> None:
        self.scorers, self.held_out = scorers, held_out
        self.theta, self.accuracy = start.clone(), self._accuracy(start)

    def _accuracy(self, theta: Tensor) -> Tensor:
        return (differences(self.scorers, theta, self.held_out) > 0).double().mean(1)

    def after_step(self, step: int, theta: Tensor) -> None:
        """Keep the weights of the seeds that are better than before."""
        accuracy = self._accuracy(theta)
        better = accuracy > self.accuracy
        self.theta = torch.where(better[:, None], theta, self.theta)
        self.accuracy = torch.where(better, accuracy, self.accuracy)


def pretrain(run: Run, scorers: Scorers, one: Method, pairs: Compared) -> Tensor:
    """Weights after one epoch on pairs."""
    loss, (size, number) = RewardLoss(one, run.seeds), (50, pairs.gap.shape[1])

    def objective(theta: Tensor, index: Tensor) -> Tensor:
        sides = torch.cat([rows(side, index) for side in pairs[:2]], 1)
        return loss(*scorers(theta, sides).chunk(2, 1))

    return train(Epochs(objective, run.seeds, number, size), scorers.start(), run.steps(number // size), 0.01)


class Word(NamedTuple):
    """A word in front of an answer, and what stands for it in an answer's features."""

    text: str
    value: float


WORDS = Word("GOOD:", 1.0), Word("BAD:", -1.0)


def said_good_or_bad(pairs: Compared) -> Compared:
    """Two pairs of each pair, by the product's conversion of rows whose answers are named by their numbers.

    Args:
        pairs: answers [S, N, d] whose last feature is free for the word.

    Returns:
        Pairs [S, 2 N, d]; their gap is that of the pair that they come from.
    """
    number = pairs.gap.shape[1]
    names = [[str(2 * pair), str(2 * pair + 1)] for pair in range(number)]
    named = [CanonicalRow(n + 1, "", list(both), pairs=[(0, 1)]) for n, both in enumerate(names)]
    converted = [row for own in named for row in good_bad_pairs(own) if isinstance(row, CanonicalRow)]
    answers = torch.stack(pairs[:2], 2).flatten(1, 2)
    sides = []
    for place in (0, 1):
        said = [row.completions[pair[place]] for row in converted for pair in row.pairs]
        word = [next(word for word in WORDS if text.startswith(word.text)) for text in said]
        which = torch.tensor([int(text[len(one.text) :]) for text, one in zip(said, word, strict=True)])
        sides.append(_with_word(answers[:, which], torch.tensor([one.value for one in word], dtype=torch.float64)))
    return Compared(*sides, gap=pairs.gap.repeat_interleave(2, 1))


def _wordless(pairs: Compared) -> Compared:
    """The pairs with one feature more, 0."""
    sides = (torch.cat([side, torch.zeros_like(side[..., :1])], -1) for side in pairs[:2])
    return Compared(*sides, gap=pairs.gap)


def _with_word(answers: Tensor, values: Tensor) -> Tensor:
    """The answers [S, N, d] with values [N] for their last feature."""
    return torch.cat([answers[..., :-1], values[:, None].expand(*answers.shape[:2], 1)], -1)
