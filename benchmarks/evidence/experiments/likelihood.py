"""Chosen likelihood: whether a method keeps the probability of what it is told to prefer."""

from __future__ import annotations

import torch
from torch import Tensor

from evidence.experiment import Run, experiment
from evidence.product import Method, method
from evidence.worlds.bandit import Bandit
from evidence.worlds.base import World, entropy, expectation, per_seed
from evidence.worlds.data import Pairs, winners
from evidence.worlds.displacement import Displacement
from evidence.worlds.tabular import Tabular, one_prompt, single

T1 = "T1: 16 prompts, chosen and rejected with nearly the same features (cosine 0.95), 18 responses in no pair."
T1_BUDGET = "3000 full-batch gradient steps, beta 0.5"
W1 = "W1: log-linear bandit, 16 prompts, 20 responses, 6 shared features, 256 sampled pairs."
W1_BUDGET = "600 full-batch steps of Adam 0.03, beta 0.1"


def displace(run: Run, *methods: Method) -> None:
    """Train methods in T1 and measure where the probability goes."""
    world = Displacement(run.seeds)
    pairs = world.pairs()
    for one in run.present(*methods):
        state = run.fit(world, one, pairs, steps=world.steps, learning_rate=world.learning_rate, optimiser="sgd")
        run.measure(one, **world.shares(state), entropy=entropy(state))


def bandit(run: Run, *methods: Method, reference: bool = True) -> None:
    """Train methods in W1, on the same pairs; SFT on the chosen responses."""
    world = Bandit(run.seeds)
    pairs = world.pairs()
    if reference:
        measure_bandit(run, "reference", world, world.reference, pairs)
    for one in run.present(*methods):
        data = winners(pairs) if one.name == "SFT" else pairs
        state = run.fit(world, one, data, steps=600, learning_rate=0.03)
        measure_bandit(run, one.label, world, state, pairs)


def measure_bandit(run: Run, label: str, world: Bandit, state: Tensor, pairs: Pairs) -> None:
    """Measure mean log-probabilities of chosen and rejected responses, and the mean reward."""
    run.measure(
        label,
        chosen_logp=mean_logp(world, state, pairs, pairs.chosen),
        rejected_logp=mean_logp(world, state, pairs, pairs.rejected),
        reward=expectation(state, world.reward),
    )


def mean_logp(world: World, state: Tensor, pairs: Pairs, responses: Tensor) -> Tensor:
    """Mean log-probability of responses of pairs, [S], nats."""
    return per_seed(world.score(state, pairs.seed, pairs.prompt, responses), pairs, world.seeds)


@experiment(
    claim="DPO pushes chosen responses down with the rejected ones, and unseen ones up; regularised methods do not",
    paper="arXiv 2405.16436, 2402.13228, 2406.07327, 2507.07723; Cal-DPO, NeurIPS 2024",
    world=T1,
    budget=T1_BUDGET,
)
def chosen_likelihood(run: Run) -> None:
    """Probability of chosen and of unseen responses, each method with settings of its own."""
    displace(
        run,
        method("DPO", beta=0.5),
        method("CPO", "CPO, no NLL", beta=0.5, nll_weight=0.0),
        method("SimPO", beta=0.5, gamma=0.5),
        method("IPO", beta=0.5),
        method("RegularizedPO", "RPO", beta=0.5, eta=0.2),
        method("CPO", beta=0.5, nll_weight=0.5),
        method("NCAPair", "NCA", beta=0.5),
        method("DPOPositive", "DPOP 5", beta=0.5, penalty=5.0),
        method("DPOPositive", "DPOP 50", beta=0.5, penalty=50.0),
        method("CalDPO", "Cal-DPO", beta=0.5),
        method("StableDPO", "SPO on DPO", beta=0.5, rho=0.5),
        method("StableCPO", "SPO on CPO", beta=0.5, rho=0.5),
        method("StableSimPO", "SPO on SimPO", beta=0.5, gamma=0.5, rho=0.5),
        method("FlexDPO", "Flex-DPO 0.1", beta_plus=0.5, beta_minus=0.1),
    )
    run.expect("unseen", "DPO", ">", 0.9)
    for label in ("RPO", "CPO", "NCA", "DPOP 5", "DPOP 50", "Cal-DPO", "SPO on DPO", "Flex-DPO 0.1"):
        run.expect("chosen", label, ">", "DPO", by=0.1)
    run.expect("chosen", "CPO", ">", "CPO, no NLL", by=0.1)
    for base in ("DPO", "CPO", "SimPO"):
        run.expect("chosen", f"SPO on {base}", ">", 0.35, note="start")
        run.expect("unseen", f"SPO on {base}", "<", 0.1)
    for label, values in {
        "DPO": (0.000, 0.001),
        "IPO": (0.329, 0.371),
        "DPOP 5": (0.353, 0.353),
        "DPOP 50": (0.389, 0.386),
        "Cal-DPO": (0.861, 0.859),
        "SPO on DPO": (0.953, 0.957),
        "RPO": (0.830, 0.846),
        "Flex-DPO 0.1": (0.865, 0.876),
    }.items():
        run.compare_with_spec("chosen", label, values)
    run.plot_bars("chosen", "rejected", "unseen")


@experiment(
    claim="With shared features too, RPO, CPO and NCA keep the likelihood of chosen responses that DPO gives away",
    paper="RPO, arXiv 2405.16436; CPO, 2401.08417; NCA, 2402.05369; SLiC-HF, 2305.10425",
    world=W1,
    budget=W1_BUDGET,
)
def chosen_likelihood_bandit(run: Run) -> None:
    """Mean chosen log-probability, and the reward that this costs or does not cost."""
    bandit(
        run,
        method("SFT"),
        method("DPO", beta=0.1),
        method("RegularizedPO", "RPO", beta=0.1, eta=2.0),
        method("CPO", "CPO, no NLL", beta=0.1, nll_weight=0.0),
        method("CPO", beta=0.1, nll_weight=1.0),
        method("NCAPair", "NCA", beta=0.1),
        method("SLiCHF", "SLiC-HF", delta=1.0, reg_weight=0.1),
        method("DPOPositive", "DPOP 50", beta=0.1, penalty=50.0),
        method("CalDPO", "Cal-DPO", beta=0.1),
        method("StableDPO", "SPO on DPO", beta=0.1, rho=0.5),
        method("SPPOHard", "SPPO hard", beta=0.1),
    )
    for label in ("RPO", "NCA", "DPOP 50", "Cal-DPO", "SPO on DPO"):
        run.expect("chosen_logp", label, ">", "DPO", by=3)
    run.expect("chosen_logp", "CPO", ">", "CPO, no NLL", by=3)
    run.expect("chosen_logp", "SLiC-HF", ">", "DPO", by=1)
    run.expect("chosen_logp", "SPPO hard", ">", "DPO")
    for label in ("RPO", "CPO"):
        run.expect("chosen_logp", label, ">", "reference", by=-0.2)
    for label in ("DPO", "RPO", "CPO", "NCA", "SLiC-HF"):
        run.expect("reward", label, ">", "SFT")
    run.compare_with_spec("reward", "SFT", (0.48, 1.17, 0.99, 0.17, -0.95))
    run.compare_with_spec("chosen_logp", "NCA", (-3.9, -3.8, -3.9, -3.4, -3.7))
    run.compare_with_spec("chosen_logp", "CPO", (-2.6, -2.5, -2.6, -2.4, -2.4))
    run.plot_bars("chosen_logp", "rejected_logp", "reward")


@experiment(
    claim="Hinge DPO stops pulling at pairs that are satisfied: likelihoods fall less than DPO's at no cost in reward",
    paper="RSO, arXiv 2309.06657",
    world=W1,
    budget=W1_BUDGET,
)
def hinge(run: Run) -> None:
    """Chosen and rejected log-probabilities, and the mean reward."""
    bandit(run, method("DPO", beta=0.1), method("HingeDPO", "hinge DPO", beta=0.1))
    run.expect("chosen_logp", "hinge DPO", ">", "DPO")
    run.expect("rejected_logp", "hinge DPO", ">", "DPO")
    run.expect("reward", "hinge DPO", ">", "DPO", by=-0.1)
    run.plot_bars("chosen_logp", "rejected_logp", "reward")


@experiment(
    claim="SFT alone leaves rejected responses likely; ORPO's odds ratio lowers them",
    paper="ORPO, arXiv 2403.07691",
    world=W1,
    budget="600 full-batch steps of Adam 0.03, weight of the odds ratio 1",
)
def odds_ratio(run: Run) -> None:
    """Rejected log-probabilities, mean reward and chosen log-probabilities."""
    bandit(run, method("SFT"), method("ORPO", beta=1.0))
    run.expect("rejected_logp", "ORPO", "<", "SFT")
    run.expect("reward", "ORPO", ">", "SFT")
    run.expect("chosen_logp", "ORPO", ">", "SFT", by=-0.3)
    run.compare_with_spec("rejected_logp", "ORPO", (-3.20, -3.48, -3.41, -2.79, -2.85))
    run.plot_bars("rejected_logp", "chosen_logp", "reward")


@experiment(
    claim="TPO earns more than imitating its gold responses does, and keeps them likely where DPO does not",
    paper="TPO, arXiv 2405.16681",
    world=W1 + " Gold: the best of four more samples.",
    budget=W1_BUDGET + ", weight of the likelihood 0.1",
)
def gold_responses(run: Run) -> None:
    """Log-probability of the gold responses, and mean reward."""
    world = Bandit(run.seeds)
    pairs = world.pairs()
    pairs = pairs._replace(target=best_of_samples(world, pairs, 4))
    gold = winners(pairs)._replace(response=pairs.target)
    for one in run.present(
        method("SFT", "SFT on gold"), method("DPO", beta=0.1), method("TriplePO", "TPO", beta=0.1, alpha=0.1)
    ):
        data = gold if one.name == "SFT" else pairs
        state = run.fit(world, one, data, steps=600, learning_rate=0.03)
        gold_logp = mean_logp(world, state, pairs, gold.response)
        run.measure(one, gold_logp=gold_logp, reward=expectation(state, world.reward))
    run.expect("reward", "TPO", ">", "SFT on gold")
    run.expect("gold_logp", "TPO", ">", "DPO", by=3)
    run.plot_bars("gold_logp", "reward")


def best_of_samples(world: Bandit, pairs: Pairs, number: int) -> Tensor:
    """For each pair, the best of some samples of the reference to its prompt, [B]."""
    generator = torch.Generator().manual_seed(0)
    probabilities = world.reference[pairs.seed, pairs.prompt].exp()
    samples = torch.multinomial(probabilities, number, replacement=True, generator=generator)
    rewards = world.reward[pairs.seed[:, None], pairs.prompt[:, None], samples]
    return samples.gather(1, rewards.argmax(1, keepdim=True))[:, 0]


@experiment(
    claim="APO-zero raises chosen and lowers rejected, APO-down lowers both; SPPO sets both by their win rate",
    paper="APO, arXiv 2408.06266; SPPO, 2405.00675",
    world="W4: one prompt, 5 equally likely responses, one pair.",
    budget="400 gradient steps of 0.5, beta 0.5",
    seeds=1,
)
def anchored_signs(run: Run) -> None:
    """Log-ratios to the reference after training on one pair."""
    world = Tabular(one_prompt([0.2] * 5), one_prompt([1.0] * 5))
    pairs = single(0, 1)
    for one in run.present(
        method("DPO", beta=0.5),
        method("APOZero", "APO-zero", beta=0.5),
        method("APODown", "APO-down", beta=0.5),
        method("SPPOHard", "SPPO hard", beta=0.5),
    ):
        state = run.fit(world, one, pairs, steps=400, learning_rate=0.5, optimiser="sgd")
        moved = (state - world.reference)[0, 0]
        run.measure(one, chosen_logratio=moved[:1], rejected_logratio=moved[1:2])
    run.expect("chosen_logratio", "APO-zero", ">", 0.0)
    run.expect("rejected_logratio", "APO-zero", "<", 0.0)
    run.expect("chosen_logratio", "APO-down", "<", 0.0)
    run.expect("rejected_logratio", "APO-down", "<", "APO-zero")
    run.expect("chosen_logratio", "SPPO hard", ">", 0.0)
    run.expect("rejected_logratio", "SPPO hard", "<", 0.0)
    for measure, label, value in (
        ("chosen_logratio", "APO-zero", 1.17),
        ("rejected_logratio", "APO-zero", -9.09),
        ("chosen_logratio", "APO-down", -6.99),
        ("rejected_logratio", "APO-down", -14.0),
        ("chosen_logratio", "DPO", 1.16),
        ("rejected_logratio", "DPO", -7.99),
    ):
        run.compare_with_spec(measure, label, [value])
    run.plot_bars("chosen_logratio", "rejected_logratio")


@experiment(
    claim="A margin bounded from both sides keeps probability where it was; the one-sided form drives it away",
    paper="Stable Preference Optimization via Two-sided Contrastive Learning, OpenReview ke1f4IVR47",
    world=T1,
    budget="3000 full-batch gradient steps, beta 5",
)
def two_sided(run: Run) -> None:
    """Probability of unseen responses, entropy (1.96 at the start), and the final margin."""
    world = Displacement(run.seeds)
    pairs = world.pairs()
    for one in run.present(
        method("OneSidedPO", "one-sided", beta=5.0, margin=0.3),
        method("TwoSidedPO", "two-sided", beta=5.0, left=0.3, right=0.5),
    ):
        state = run.fit(world, one, pairs, steps=world.steps, learning_rate=world.learning_rate, optimiser="sgd")
        gap = (state[..., 0] - state[..., 1]).mean(-1)
        run.measure(one, unseen=world.shares(state)["unseen"], entropy_shift=(entropy(state) - 1.96).abs(), margin=gap)
    run.expect("unseen", "two-sided", "<", 0.4)
    run.expect("unseen", "one-sided", ">", 0.7)
    run.expect("entropy_shift", "two-sided", "<", "one-sided")
    run.expect("margin", "two-sided", "<", 0.405)
    run.expect("margin", "two-sided", ">", 0.395)
    run.expect("margin", "one-sided", ">", "two-sided")
    run.compare_with_spec("unseen", "two-sided", (0.350, 0.328))
    run.compare_with_spec("unseen", "one-sided", (0.847, 0.789))
    run.plot_bars("unseen", "entropy_shift", "margin")


@experiment(
    claim="The less the rejected term weighs in a pair, the less the chosen response is displaced",
    paper="MaPPO, arXiv 2507.21183; Flex-DPO, 2406.07327",
    world=T1,
    budget=T1_BUDGET,
)
def rejected_weight(run: Run) -> None:
    """MaPPO's weight is the gap of the rewards; Flex-DPO's is set by hand."""
    world = Displacement(run.seeds)
    gaps = (0.2, 0.5, 0.9)
    for gap in gaps:
        for one in run.present(method("MaPPO", f"MaPPO, gap {gap}", beta=0.5)):
            state = run.fit(
                world, one, world.pairs(gap), steps=world.steps, learning_rate=world.learning_rate, optimiser="sgd"
            )
            run.measure(one, **world.shares(state))
    flex = [method("FlexDPO", f"Flex-DPO {weight}", beta_plus=0.5, beta_minus=weight) for weight in (0.1, 0.4)]
    for one in run.present(method("DPO", beta=0.5), *flex):
        state = run.fit(
            world, one, world.pairs(), steps=world.steps, learning_rate=world.learning_rate, optimiser="sgd"
        )
        run.measure(one, **world.shares(state))
    run.expect_order("chosen", ">", *(f"MaPPO, gap {gap}" for gap in gaps))
    run.expect_order("chosen", ">", "Flex-DPO 0.1", "Flex-DPO 0.4", "DPO")
    run.expect("unseen", "Flex-DPO 0.1", "<", 0.2)
    run.compare_with_spec("chosen", "MaPPO, gap 0.2", (0.865, 0.876))
    run.compare_with_spec("chosen", "MaPPO, gap 0.9", (0.030, 0.074))
    run.compare_with_spec("chosen", "Flex-DPO 0.4", (0.202, 0.307))
    run.plot_bars("chosen", "rejected", "unseen")
