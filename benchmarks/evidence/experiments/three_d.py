"""3D properties: drop, degradation and dispersion, measured for every method on pairs that the product has."""

from __future__ import annotations

import torch

import lit_align
from evidence.experiment import Run, experiment
from evidence.product import Method, method
from evidence.worlds.displacement import Displacement
from lit_align.core.kinds import PairwiseModule

STEPS = 1500
SETTINGS = {
    "AlphaDPO": {"beta": 0.5},
    "AlphaPO": {"beta": 0.5},
    "FlexDPO": {"beta_plus": 0.5, "beta_minus": 0.4},
    "IPO": {"beta": 0.5},
    "ORPO": {"beta": 1.0},
    "OneSidedPO": {"beta": 5.0},
    "RegularizedPO": {"beta": 0.5, "eta": 0.2},
    "SLiCHF": {},
    "SimPO": {"beta": 0.5},
    "StableCPO": {"beta": 0.5, "rho": 0.5},
    "StableDPO": {"beta": 0.5, "rho": 0.5},
    "StableSimPO": {"beta": 0.5, "rho": 0.5},
    "TwoSidedPO": {"beta": 5.0},
}
"""Where beta 0.5 and otherwise the class's defaults are not what the experiments of this folder use."""
KEEPERS = ("RegularizedPO", "StableDPO", "StableCPO", "StableSimPO", "CalDPO", "CPO", "NCAPair", "PairwiseCringe")
"""Methods with a term that holds the chosen response, in this folder's settings."""


def pairwise_methods() -> list[Method]:
    """Every method on pairs, at beta 0.5 where it has a beta."""
    found = []
    for name in sorted(lit_align.__all__):
        cls = getattr(lit_align, name)
        if isinstance(cls, type) and issubclass(cls, PairwiseModule):
            own = {"beta": 0.5} if "beta" in vars(method(name).build()) else {}
            found.append(method(name, **SETTINGS.get(name, own)))
    return found


@experiment(
    claim="3D properties: DPO drops both responses and probability scatters; methods that hold the chosen one stop it",
    paper="3D-Properties, arXiv 2406.07327",
    world="T1: 16 prompts, chosen and rejected with nearly the same features, 18 responses in no pair.",
    budget="1500 full-batch gradient steps; beta 0.5 and default settings where nothing else is said",
    seeds=3,
    discussion=(
        "drop: mean fall of the rejected log-probability over that of the chosen one; degradation: log of how much "
        "stronger the loss pulls at the rejected probability than at the chosen one, log pi(chosen) - log "
        "pi(rejected); dispersion: probability of the 18 responses in no pair, 0.30 at the start. A small step is "
        "taken for every method alike, so methods with small gradients have gone less far."
    ),
)
def three_d_properties(run: Run) -> None:
    """Probabilities, drop, degradation and dispersion of every method."""
    world = Displacement(run.seeds)
    pairs = world.pairs(margin=0.5)
    for one in run.present(*pairwise_methods()):
        state = run.fit(world, one, pairs, steps=STEPS, learning_rate=world.learning_rate, optimiser="sgd")
        moved = (state - world.reference).mean(1)
        chosen, rejected = moved[:, 0], moved[:, 1]
        run.measure(
            one,
            **world.shares(state),
            chosen_change=chosen,
            drop_ratio=rejected.abs() / chosen.abs().clamp(min=1e-8),
            log_gradient_ratio=(state[..., 0] - state[..., 1]).mean(1),
            peak_lost=torch.clamp(-chosen, min=0),
        )
    run.expect("drop_ratio", "DPO", ">", 1.0)
    run.expect("chosen_change", "DPO", "<", 0.0)
    run.expect("log_gradient_ratio", "DPO", ">", 0.0)
    run.expect("unseen", "DPO", ">", 0.9)
    for name in KEEPERS:
        run.expect("unseen", name, "<", "DPO", by=0.1)
    run.plot_bars("chosen", "unseen", "log_gradient_ratio")
