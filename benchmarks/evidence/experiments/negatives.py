"""Bad examples: unlearning, negative preferences and judgments."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from evidence.experiment import Run, experiment
from evidence.product import Objective, method, reduced
from evidence.training import train
from evidence.worlds.base import per_seed
from evidence.worlds.bigram import BAD, Bigram, before
from evidence.worlds.data import Labels, Texts
from evidence.worlds.linear import TwoResponses
from lit_align.core.kinds import as_terms
from lit_align.core.outputs import AlignedLogps, SequenceLogps

W3 = "W3: bigram language model; 150 texts with token 7 twice or more to forget, 150 without it to retain."


ANCHORS = 4
"""Samples of the reference beside each text that D2O is to forget."""


def twice_bad(texts: Tensor) -> Tensor:
    """Texts with the bad token twice or more."""
    return (texts == BAD).sum(-1) >= 2


def never_bad(texts: Tensor) -> Tensor:
    """Texts without the bad token."""
    return (texts == BAD).sum(-1) == 0


def logp(world: Bigram, state: Tensor, texts: Texts) -> Tensor:
    """Mean log-probability of texts, [S], nats."""
    return per_seed(world.score(state, texts.seed, texts.prompt, texts.response), texts, world.seeds)


@experiment(
    claim="NPO ruins other texts less than gradient ascent does; with a retain term or anchors (D2O) hardly at all",
    paper="NPO, arXiv 2404.05868; D2O, 2403.03419",
    world=W3,
    budget="300 full-batch steps of Adam 0.02, beta 0.1; gradient ascent = SFT's loss with its sign turned",
)
def unlearning(run: Run) -> None:
    """Log-probability of held-out texts to retain, and of texts to forget."""
    world = Bigram(run.seeds, offset=100)
    forget, retain, held_out = (world.keep(world.filtered(150, accept)) for accept in (twice_bad, never_bad, never_bad))
    bad, unseen = world.imitate(forget), world.imitate(held_out)
    anchors = world.keep(world.filtered(ANCHORS * 150, never_bad))
    data = {
        "NPO": world.labels(forget[:0], forget),
        "NPO + retain": world.labels(retain, forget),
        "D2O": world.lists([*anchors.view(ANCHORS, 150), forget]),
    }

    def report(label: str, state: Tensor) -> None:
        run.measure(label, retained=logp(world, state, unseen), forgotten=logp(world, state, bad))

    def trained(objective: Callable[[Tensor], Tensor]) -> Tensor:
        return world.state(train(objective, world.start(), run.steps(300), 0.02))

    report("reference", world.state(world.start()))
    ascent = Objective(world, method("SFT"), bad)
    report("gradient ascent", trained(lambda theta: -ascent(theta)))
    for one in run.present(
        method("NPO", beta=0.1),
        method("NPO", "NPO + retain", beta=0.1, retain_weight=1.0),
        method("D2O", beta=0.1, alpha=0.1),
    ):
        report(one.label, trained(Objective(world, one, data[one.label])))
    run.expect_order("retained", "<", "gradient ascent", "NPO", "NPO + retain")
    run.expect_order("retained", "<", "NPO", "D2O")
    for label in ("NPO", "D2O"):
        run.expect("forgotten", label, "<", "reference", by=15)
    run.compare_with_spec("retained", "gradient ascent", (-45.1,))
    run.compare_with_spec("retained", "NPO", (-31.1,))
    run.compare_with_spec("retained", "NPO + retain", (-15.4,))
    run.compare_with_spec("retained", "D2O", (-11.5,))
    run.plot_bars("retained", "forgotten")


@experiment(
    claim="NPO's divergence slows down like a logarithm of time where gradient ascent's grows linearly",
    paper="NPO, arXiv 2404.05868",
    world="One parameter: the log-odds of one text against all others.",
    budget="10000 gradient steps of 0.1, beta 0.1",
    seeds=1,
)
def unlearning_speed(run: Run) -> None:
    """Log-probability of the text after 100, 1000 and 10000 steps."""
    world = TwoResponses(torch.ones(1, 1, 1, dtype=torch.float64))
    zero = torch.zeros(1, dtype=torch.long)
    ends = {run.steps(number): number for number in (100, 1000, 10000)}
    ascent = Objective(world, method("SFT"), Texts(zero, zero, zero))
    objectives: dict[str, Callable[[Tensor], Tensor]] = {"gradient ascent": lambda theta: -ascent(theta)}
    for one in run.present(method("NPO", beta=0.1)):
        objectives["NPO"] = Objective(world, one, Labels(zero, zero, zero, zero > 0))
    lines: dict[str, dict[float, str]] = {}
    for label, objective in objectives.items():

        def note(step: int, theta: Tensor, label: str = label) -> None:
            if step in ends:
                name = f"{label}, {ends[step]} steps"
                run.measure(name, logp=world.state(theta)[:, 0, 0])
                lines.setdefault(label, {})[ends[step]] = name

        train(objective, world.start(), max(ends), 0.1, "sgd", after_step=note)
    final = run.measures["logp"]["gradient ascent, 10000 steps"][0]
    run.expect("logp", "NPO, 10000 steps", ">", 0.1 * final, note="a tenth of gradient ascent's")
    for label, values in {"gradient ascent": (-6.2, -96, -996), "NPO": (-5.4, -28.8, -53.0)}.items():
        for number, value in zip(ends.values(), values, strict=True):
            run.compare_with_spec("logp", f"{label}, {number} steps", [value])
    run.plot_lines("logp", "steps", lines, log_x=True)


@experiment(
    claim="CRINGE on bad texts lowers the bad token more than imitating good texts alone",
    paper="CRINGE, arXiv 2211.05826",
    world=W3,
    budget="300 full-batch steps of Adam 0.02; k 5, alpha 1",
)
def cringe_binary(run: Run) -> None:
    """Mean share of the bad token in texts of the policy."""
    world = Bigram(run.seeds, offset=100)
    bad, good = (world.keep(world.filtered(150, accept)) for accept in (twice_bad, never_bad))
    run.measure("reference", bad_token=world.share(world.state(world.start()), BAD))
    for one in run.present(method("SFT", "SFT on good"), method("BinaryCringe", "CRINGE", k=5, alpha=1.0)):
        data = world.imitate(good) if one.name == "SFT" else world.labels(good, bad)
        state = run.fit(world, one, data, steps=300, learning_rate=0.02)
        run.measure(one, bad_token=world.share(state, BAD))
    run.expect_order("bad_token", "<", "CRINGE", "SFT on good", "reference")
    run.compare_with_spec("bad_token", "CRINGE", (0.0037, 0.0030, 0.0031, 0.0027, 0.0034))
    run.compare_with_spec("bad_token", "SFT on good", (0.0057, 0.0056, 0.0050, 0.0039, 0.0050))
    run.plot_bars("bad_token")


class Judged:
    """Good and bad texts of a bigram model, and a table that is added to its logits where a judgment is in the prompt.

    Args:
        world: the bigram model.
        number: texts of each kind.
    """

    def __init__(self, world: Bigram, number: int = 120) -> None:
        self.world = world
        self.good = world.filtered(number, never_bad)
        self.bad = world.filtered(number, lambda texts: (texts == BAD).any(-1))
        self.texts = torch.cat([self.good, self.bad], dim=1)
        self.label = torch.arange(2 * number) < number

    def start(self) -> Tensor:
        """The reference's table, and nothing added, [S, 2, 8, 8]."""
        base = self.world.start()
        return torch.stack([base, torch.zeros_like(base)], 1)

    def tokens(self, theta: Tensor, seed: int, texts: Tensor) -> tuple[Tensor, Tensor]:
        """Log-probabilities [N, 6] of the texts' tokens, without and with a judgment in the prompt."""
        plain, judged = theta[seed, 0].log_softmax(-1), theta[seed].sum(0).log_softmax(-1)
        return plain[before(texts), texts], judged[before(texts), texts]

    def objective(self, one: object) -> Callable[[Tensor], Tensor]:
        """The loss of a method that learns from judgments; losses [S] of the parameters."""
        module = one.build()  # type: ignore[attr-defined]

        def losses(theta: Tensor) -> Tensor:
            return torch.stack([self._loss(module, theta, seed) for seed in range(self.world.seeds)])

        return losses

    def _loss(self, module, theta: Tensor, seed: int) -> Tensor:
        texts = self.texts[seed]
        plain, judged = self.tokens(theta, seed, texts)
        lengths = torch.full((len(texts),), float(texts.shape[1]), dtype=torch.float64)
        bad = ~self.label
        example = bad.nonzero()[:, 0].repeat_interleave(texts.shape[1])
        tokens = AlignedLogps(plain[bad].flatten(), judged[bad].flatten(), example)
        conditioned = torch.where(self.label[:, None], plain, judged)
        terms = module.losses(
            SequenceLogps(plain.sum(1), lengths), SequenceLogps(conditioned.sum(1), lengths), tokens, self.label
        )
        return reduced(as_terms(terms), lengths)


THRESHOLD = 1.1


@experiment(
    claim="CUT finds the inappropriate tokens by what a judgment changes, and lowers these while it keeps the others",
    paper="CUT, arXiv 2312.14591",
    world=(
        "W3 with a second table for 'a negative judgment is in the prompt': 120 good texts, 120 with the bad token."
    ),
    budget="400 full-batch steps of Adam 0.02; lambda 1.1, alpha 0.5, gamma 0",
    discussion=(
        "Unlikelihood on all tokens of bad texts is CUT with so low a threshold that every token is flagged, "
        "imitation of everything is CUT with so high a one that none is."
    ),
)
def judgments(run: Run) -> None:
    """Share of flagged tokens, and mean probability, of bad and of other tokens in bad texts."""
    judged = Judged(Bigram(run.seeds))
    settings = {"alpha": 0.5, "gamma": 0.0}
    for one in run.present(
        method("CUT", threshold=THRESHOLD, **settings),
        method("CUT", "unlikelihood on all", threshold=1e-9, **settings),
        method("CUT", "imitate all", threshold=1e9, **settings),
    ):
        theta = train(judged.objective(one), judged.start(), run.steps(400), 0.02)
        rows: dict[str, list[Tensor]] = {}
        for seed in range(run.seeds):
            plain, with_judgment = (part.exp() for part in judged.tokens(theta, seed, judged.bad[seed]))
            flagged = (with_judgment > THRESHOLD * plain).double()
            for name, where in (("bad", judged.bad[seed] == BAD), ("other", judged.bad[seed] != BAD)):
                rows.setdefault(f"{name}_flagged", []).append(flagged[where].mean())
                rows.setdefault(f"{name}_probability", []).append(plain[where].mean())
        values = {name: torch.stack(column) for name, column in rows.items()}
        run.measure(one, **values, flag_ratio=values["bad_flagged"] / values["other_flagged"].clamp(min=1e-9))
    run.expect("bad_flagged", "CUT", ">", 0.8)
    run.expect("flag_ratio", "CUT", ">", 2.0)
    if "imitate all" in run.measures.get("bad_probability", {}):
        values = run.measures["bad_probability"]
        run.measure("half of imitate all", bad_probability=torch.tensor(values["imitate all"]) / 2)
    run.expect("bad_probability", "CUT", "<", "half of imitate all")
    run.expect("other_probability", "CUT", ">", "unlikelihood on all")
    run.compare_with_spec("bad_probability", "CUT", (0.015, 0.018, 0.010))
    run.compare_with_spec("other_probability", "CUT", (0.190, 0.158, 0.150))
    run.plot_bars("bad_flagged", "bad_probability", "other_probability")
