"""Whose answers are compared, where everything can be computed: samplers of online DPO, and rejection sampling."""

from __future__ import annotations

import math
import random
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor, nn

from evidence.experiment import Run, experiment
from evidence.product import Method, Objective, method
from evidence.training import train
from evidence.worlds.bandit import Bandit
from evidence.worlds.base import generators, kl
from evidence.worlds.data import Pairs
from evidence.worlds.rare import Rare
from evidence.worlds.sampled import regret
from evidence.worlds.tabular import Tabular
from lit_align.data.rejection_sampling import rejection_sample
from lit_align.rollouts.mixing import LogitMix, mixed

# ------------------------------------------------------------------ samplers of online DPO


class Seen(NamedTuple):
    """What a sampler looks at, each [S, V]."""

    policy: Tensor
    """Log-probabilities."""
    reference: Tensor
    """Log-probabilities."""
    reward: Tensor


Sampler = Callable[[Seen], Tensor]
"""Weights [S, V, V] of all pairs, symmetric; they carry no gradient."""


def _mix(seen: Seen, policy: float, reference: float) -> Tensor:
    """The product's mixture of logits, [S, V]."""
    return mixed(seen.policy, seen.reference, LogitMix(nn.Identity(), policy, reference))


def _inverse_slope(heights: Tensor) -> Tensor:
    """The paper's weights of its uniform pairs, and of those drawn by exp(heights) and exp(-heights), together."""
    return 2 + 2 * (heights[:, :, None] - heights[:, None]).cosh()


def _one_of_each(one: Tensor, two: Tensor) -> Tensor:
    """Probabilities of pairs of an answer of each of two distributions, given as logits [S, V]."""
    first, second = one.softmax(-1), two.softmax(-1)
    return first[:, :, None] * second[:, None] + second[:, :, None] * first[:, None]


def _own(seen: Seen) -> Tensor:
    return _one_of_each(seen.policy, seen.policy)


def _best_and_worst(seen: Seen, samples: int = 8) -> Tensor:
    """Probabilities of pairs of the best and the worst of some answers of the policy."""
    order = seen.reward.argsort(-1)
    below = nn.functional.pad(seen.policy.softmax(-1).gather(-1, order).cumsum(-1), (1, 0))
    # That all answers stand between two ranks, [S, worst, behind the best].
    between = (below[:, None] - below[:, :, None]).clamp(min=0) ** samples
    joint = between[:, :-1, 1:] - between[:, 1:, 1:] - between[:, :-1, :-1] + between[:, 1:, :-1]
    joint = joint.triu(1) + joint.triu(1).transpose(1, 2)
    place = order.argsort(-1)
    return joint.gather(1, place[:, :, None].expand_as(joint)).gather(2, place[:, None].expand_as(joint))


def _error(world: Tabular, logps: Tensor, beta: float) -> Tensor:
    """Largest error of a difference of implicit rewards, [S]."""
    off = (beta * (logps - world.reference) - world.reward)[:, 0]
    return off.amax(-1) - off.amin(-1)


def _policies(world: Tabular, soft: Method, sampler: Sampler, steps: int, rate: float) -> list[Tensor]:
    """Log-probabilities [S, 1, V] before the first step and after each, with exact gradients of the product's loss."""
    seeds, _, responses = world.reward.shape
    one, two = torch.combinations(torch.arange(responses)).T
    seed = torch.arange(seeds).repeat_interleave(len(one))
    first, second = one.repeat(seeds), two.repeat(seeds)
    zero = torch.zeros_like(seed)
    label = (world.reward[seed, zero, first] - world.reward[seed, zero, second]).sigmoid()
    pairs = Pairs(seed, zero, first, second, {"label_probability": label}, torch.zeros_like(label))
    objective = Objective(world, soft, pairs)

    def loss(theta: Tensor) -> Tensor:
        seen = Seen(*(table.detach()[:, 0] for table in (world.state(theta), world.reference, world.reward)))
        weights = sampler(seen)[:, one, two]
        objective.pieces = [piece._replace(weights=own) for piece, own in zip(objective.pieces, weights, strict=True)]
        return objective(theta)

    found = [world.reference]
    train(loss, world.start(), steps, rate, "sgd", lambda _, theta: found.append(world.state(theta)))
    return found


def _unit_rewards(seeds: int) -> Tabular:
    """Random rewards from 0 to 1, and a reference with random logits."""
    drawn = generators(seeds)
    reward = torch.stack([torch.rand(1, MANY, generator=g, dtype=torch.float64) for g in drawn])
    low, high = reward.amin(-1, keepdim=True), reward.amax(-1, keepdim=True)
    logits = torch.stack([torch.randn(1, MANY, generator=g, dtype=torch.float64) for g in drawn])
    return Tabular(logits.log_softmax(-1), (reward - low) / (high - low))


EXACT_BETA, UPDATES, MANY = 0.5, 4, 20
EXACT: dict[str, Sampler] = {
    "uniform": lambda seen: _inverse_slope(torch.zeros_like(seen.reward)),
    "mix_r": lambda seen: _inverse_slope(seen.reward),
    "mix_p": lambda seen: _inverse_slope(_mix(seen, EXACT_BETA, -EXACT_BETA)),
}
BOUNDS: dict[str, Callable[[int], float]] = {
    "uniform": lambda step: 0.588**step,
    "mix_r": lambda step: 0.5 ** (2**step - 1),
    "mix_p": lambda step: 0.611 ** (2**step - 1),
}
"""The paper's: what is left at most of an error of 1."""
PROTOTYPE = {
    "uniform": (1.0, 0.0594083566825, 0.00950277415348, 0.00158985273328, 0.000267934492443),
    "mix_r": (1.0, 0.135700468518, 0.00338796939099, 2.080626337e-06, 7.85149723015e-13),
    "mix_p": (1.0, 0.0594083566825, 0.000612666621025, 6.80832212829e-08, 6.66133814775e-16),
}


@experiment(
    claim="In tables DPO's error falls by a factor a step on uniform pairs, and squares with samplers of mixed weights",
    paper="The Crucial Role of Samplers, arXiv 2409.19605, Theorems on DPO-Unif, DPO-Mix-R and DPO-Mix-P",
    world="W4: one prompt; 3 responses with rewards 0, 1/3 and 1, and five worlds of 20 with random ones from 0 to 1.",
    budget=f"{UPDATES} exact gradient steps of 1 / (beta^2 V), the paper's weights, beta {EXACT_BETA:g}",
    seeds=1,
    discussion=(
        "error: largest error of a difference of implicit rewards over all pairs, 1 at the beginning, of the worst of "
        "five worlds where there are 20 responses; right digits: its negative decimal logarithm. From 15 digits on it "
        "is rounding. The loss is SoftDPO's; Mix-P's two samplers are the product's mixture of logits, weights beta "
        "and -beta. That uniform pairs leave more than 1e-4 is our prototype's threshold, for 3 responses; with 20 "
        "they leave a little less."
    ),
)
def sampler_rates(run: Run) -> None:
    """The theorem's samplers on the product's loss."""
    (soft,) = run.present(method("SoftDPO", beta=EXACT_BETA))
    three = Tabular(
        torch.zeros(1, 1, 3, dtype=torch.float64).log_softmax(-1), torch.tensor([[[0, 1 / 3, 1]]], dtype=torch.float64)
    )
    worlds = {3: three, MANY: _unit_rewards(5)}
    for name, sampler in EXACT.items():
        for responses, world in worlds.items():
            rate = 1 / (EXACT_BETA**2 * responses)
            for step, logps in enumerate(_policies(world, soft, sampler, UPDATES, rate)):
                error = _error(world, logps, EXACT_BETA).amax()[None]
                label = f"{name}, {responses} responses, step {step}"
                run.measure(label, error=error, right_digits=-error.clamp(min=1e-16).log10())
    for responses in worlds:
        for name, bound in BOUNDS.items():
            for step in range(1, UPDATES + 1):
                label = f"{name}, {responses} responses, step {step}"
                run.expect("error", label, "<", bound(step), note="the paper's bound")
        left = 1e-4 if responses == 3 else 1e-5
        for name, sign, limit in (("mix_r", "<", 1e-6), ("mix_p", "<", 1e-6), ("uniform", ">", left)):
            run.expect("error", f"{name}, {responses} responses, step {UPDATES}", sign, limit)
    for name, values in PROTOTYPE.items():
        for step in range(1, UPDATES + 1):
            run.compare_with_spec("error", f"{name}, 3 responses, step {step}", values[step : step + 1])
    for responses in worlds:
        lines = {name: {t: f"{name}, {responses} responses, step {t}" for t in range(UPDATES + 1)} for name in EXACT}
        run.plot_lines("right_digits", f"step, {responses} responses", lines)


BETA, STEPS, MIXED = 0.2, 25, 0.7
PRACTICE: dict[str, Sampler] = {
    "reference": lambda seen: _one_of_each(seen.reference, seen.reference),
    "online": _own,
    "hybrid": lambda seen: _one_of_each(seen.policy, seen.reference),
    "mix_p": lambda seen: (1 - MIXED) * _own(seen) + MIXED * _one_of_each(_mix(seen, 1.5, -0.5), _mix(seen, 0.5, 0.5)),
    "mix_r": lambda seen: (1 - MIXED) * _own(seen) + MIXED * _best_and_worst(seen),
}
"""Those of `SampledPairs`, as it weighs them where nobody sets anything; at temperature 1."""


@experiment(
    claim="Samplers around the policy bring it nearer to the optimum than two of its own answers, at like steps",
    paper="The Crucial Role of Samplers, arXiv 2409.19605, its practical samplers",
    world="W4: one prompt, 20 responses with random rewards from 0 to 1, a reference with standard normal logits.",
    budget=f"{STEPS} exact gradient steps, each sampler with the best of seven step sizes, beta {BETA:g}",
    discussion=(
        "The samplers of the callback SampledPairs, with pairs as likely as it draws them. No theorem covers these: "
        "they do not weigh pairs by the slope of the loss. Mixed logits beat the policy's own answers in every world, "
        "by a seventh to a third, which loops show by a little on the quickstart's model (loops_samplers_quickstart) "
        "and hardly in other texts (loops_samplers_common, loops_samplers); the best and the worst of eight do not. "
        "Where gradients are exact and rewards so near to each other, the reference's "
        "answers, which stay varied, teach fastest. Beta 0.2 was taken after 0.5 and 0.2 had been looked at: both put "
        "mixed logits before own answers."
    ),
)
def sampler_shares(run: Run) -> None:
    """KL to the optimum after the last step."""
    (soft,) = run.present(method("SoftDPO", beta=BETA))
    world = _unit_rewards(run.seeds)
    for name, sampler in PRACTICE.items():
        ends = [_policies(world, soft, sampler, run.steps(STEPS), 2.0**size)[-1] for size in range(5, 12)]
        gaps = torch.stack([kl(logps, world.optimum(BETA)) for logps in ends]).amin(0)
        errors = torch.stack([_error(world, logps, BETA) for logps in ends]).amin(0)
        run.measure(name, KL_to_optimum=gaps, error=errors)
    run.expect("KL_to_optimum", "mix_p", "<", "online")
    run.expect("KL_to_optimum", "mix_r", "<", "online")
    run.expect("KL_to_optimum", "hybrid", "<", "online")
    run.expect("KL_to_optimum", "mix_p", "<", "reference")
    run.plot_bars("KL_to_optimum", "error")


# ------------------------------------------------------------------ rejection sampling

TEMPERATURE, CANDIDATES, ACCEPTED, NUMBER = 0.5, 64, 8, 512
SHARES = (0.5, 0.2, 0.05)
CHECKS = 1000
"""Sets of candidates to one prompt, of which the accepted ones are compared with the optimum."""


def _accept(name: str, scores: list[float], rng: random.Random) -> list[int]:
    """Places of the eight candidates that are learnt from, in a random order."""
    if name == "SFT samples":
        return list(range(ACCEPTED))
    if name == "best 8":
        taken = sorted(range(CANDIDATES), key=scores.__getitem__)[-ACCEPTED:]
    else:
        taken = rejection_sample(scores, TEMPERATURE, ACCEPTED, iter(rng.random, None))
    rng.shuffle(taken)
    return taken


def _optimum(world: Rare | Bandit) -> Tensor:
    return (world.reference + world.reward / TEMPERATURE).log_softmax(-1)


def _distance(world: Rare | Bandit, name: str) -> Tensor:
    """Total variation between what is accepted for the first prompt and the optimum, [S]."""
    found = []
    for seed, generator in enumerate(generators(world.seeds, 2000)):
        rng, reward = random.Random(f"check {seed}"), world.reward[seed, 0]
        table = world.reference[seed, 0].exp().expand(CHECKS, -1)
        drawn = torch.multinomial(table, CANDIDATES, replacement=True, generator=generator)
        kept = torch.cat([row[_accept(name, reward[row].tolist(), rng)] for row in drawn])
        seen = torch.bincount(kept, minlength=len(reward)) / len(kept)
        found.append((seen - _optimum(world)[seed, 0].exp()).abs().sum() / 2)
    return torch.stack(found)


def _labelled(world: Rare | Bandit, name: str) -> Pairs:
    """Pairs of accepted candidates, four to each set, labelled by Bradley-Terry; equal responses are no pair."""
    rows = []
    for seed, generator in enumerate(generators(world.seeds, 1000)):
        rng = random.Random(f"pairs {seed}")
        for number in range(NUMBER // (ACCEPTED // 2)):
            prompt = number % world.reward.shape[1]
            reward = world.reward[seed, prompt]
            drawn = torch.multinomial(
                world.reference[seed, prompt].exp(), CANDIDATES, replacement=True, generator=generator
            )
            kept = drawn[_accept(name, reward[drawn].tolist(), rng)].tolist()
            for one, two in zip(kept[::2], kept[1::2], strict=True):
                wins = rng.random() < 1 / (1 + math.exp(float(reward[two] - reward[one])))
                if one != two:
                    rows.append((seed, prompt, *((one, two) if wins else (two, one))))
    return Pairs(*torch.tensor(rows).T)


def _expected_regret(world: Rare | Bandit, pairs: Pairs) -> Tensor:
    """What theory expects after maximum likelihood on pairs like these, to the first order in 1 / their number, [S].

    Estimates spread by the inverse of Fisher's information, and an error of a reward costs its variance under the
    optimal policy, halved and divided by beta.
    """
    reward, optimum, found = world.reward, _optimum(world).exp(), []
    for seed in range(world.seeds):
        own = pairs.seed == seed
        prompt, one, two = pairs.prompt[own], pairs.chosen[own], pairs.rejected[own]
        gap = world.features[seed, prompt, one] - world.features[seed, prompt, two]
        chance = (reward[seed, prompt, one] - reward[seed, prompt, two]).sigmoid()
        information = gap.T @ (gap * (chance * (1 - chance))[:, None])
        centred = world.features[seed] - (optimum[seed, ..., None] * world.features[seed]).sum(1, keepdim=True)
        spread = torch.einsum("pv,pvi,pvj->ij", optimum[seed], centred, centred) / len(centred)
        found.append(torch.linalg.solve(information, spread).trace() / (2 * TEMPERATURE))
    return torch.stack(found)


@experiment(
    claim="As many labelled pairs teach more if RSO draws them, where SFT seldom shows what makes answers good",
    paper="RSO, arXiv 2309.06657",
    world=(
        "Log-linear, 16 prompts, 60 responses: half are skilled, which is worth 1.5, and differ by six features that "
        "only they have; SFT shows them with probability 0.5, 0.2 or 0.05. And W1, whose features all responses share."
    ),
    budget=f"{NUMBER} pairs, Bradley-Terry labels, 8 of 64 candidates; DPO and sampler at 0.5; 500 steps of Adam 0.05",
    seeds=10,
    discussion=(
        "distance: total variation between what is accepted for one prompt and the optimal policy. regret: what "
        "E[reward] - beta KL falls short of the best. expected regret: what asymptotic theory says of such pairs, the "
        "inverse of their information weighed by the optimum. Both say when RSO helps: if SFT shows too little of what "
        "tells good answers apart. In W1 there is nothing to gain, since any two answers teach of all features; nor in "
        "loops_rso_common, where labels have no noise besides; the callback's pairs show it in loops_rso, a world of "
        "texts made after this one. What was tried before did not show it: in tables without "
        "shared features (20 responses, 16 to 256 pairs to a prompt) RSO's pairs were mostly worse than SFT's, as no "
        "pair then says that what SFT does most is bad; and where the reward is not linear in the policy's features, "
        "pairs of the very optimum were worse, even without noise: among what is good, what is seen and what is not "
        "seen balance each other. This world was found after these, by the theory, with five of the ten seeds; what is "
        "asked are orders only. With the hinge loss, and labels without noise, RSO's pairs were worse than SFT's in "
        "this world in five of six cells that were looked at. Where SFT shows skills in 5 %, 64 candidates do not "
        "cover the optimum, and the best 8 teach as much or more."
    ),
)
def rejection_pairs(run: Run) -> None:
    """Distance to the optimum, regret after training, and the regret that theory expects."""
    (dpo,) = run.present(method("DPO", beta=TEMPERATURE))
    worlds = {f"{share:g}": Rare(run.seeds, share) for share in SHARES} | {"W1": Bandit(run.seeds)}
    samplers = ("RSO", "SFT samples", "best 8")
    for place, world in worlds.items():
        for name in samplers:
            pairs = _labelled(world, name)
            state = run.fit(world, dpo, pairs, steps=500, learning_rate=0.05)
            run.measure(
                f"{name}, {place}",
                regret=regret(state, world.reference, world.reward, TEMPERATURE),
                expected_regret=_expected_regret(world, pairs),
                distance=_distance(world, name),
            )
    for share in ("0.2", "0.05"):
        run.expect("regret", f"RSO, {share}", "<", f"SFT samples, {share}")
        run.expect("expected_regret", f"RSO, {share}", "<", f"SFT samples, {share}")
    for share in ("0.5", "0.2"):
        run.expect("regret", f"RSO, {share}", "<", f"best 8, {share}")
    for place in worlds:
        run.expect("distance", f"RSO, {place}", "<", f"SFT samples, {place}")
        run.expect("distance", f"RSO, {place}", "<", f"best 8, {place}")
    shares = {name: {share: f"{name}, {share:g}" for share in SHARES} for name in samplers}
    for measure in ("regret", "expected_regret", "distance"):
        run.plot_lines(measure, "probability of a skill under SFT", shares, log_x=True)
