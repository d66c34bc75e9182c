"""Drift: preferences that change with time."""

from __future__ import annotations

from evidence.experiment import Run, experiment
from evidence.product import Objective, method
from evidence.training import train
from evidence.worlds.linear import Drift

DISCOUNTS = (0.7, 0.9, 0.95, 1.0)


@experiment(
    claim="Where preferences drift, NS-DPO predicts today's better than DPO; where they do not, it costs little",
    paper="NS-DPO, arXiv 2407.18676",
    world=("T3: 16 actions; what is preferred turns by 90 degrees from time 33 to 66 of 100; 20 pairs at each time."),
    budget="1000 gradient steps of 0.5 over the root of the summed squared gradient norms, beta 1, l2 1e-4",
)
def drift(run: Run) -> None:
    """Accuracy on pairs of the last time, with and without drift."""
    lines: dict[str, dict[float, str]] = {}
    for drifts in (True, False):
        world = Drift(run.seeds, drifts)
        case = "drift" if drifts else "no drift"
        methods = [method("DPO", f"DPO, {case}", beta=1.0)]
        methods += [
            method("NSDPO", f"NS-DPO {discount}, {case}", beta=1.0, gamma=discount, current_time=101.0)
            for discount in DISCOUNTS
        ]
        for one in run.present(*methods):
            loss = Objective(world.train, one, world.pairs)
            theta = train(
                lambda theta, loss=loss: loss(theta) + 1e-4 * theta.square().sum(1),
                world.train.start(),
                run.steps(1000),
                0.5,
                "norm_adagrad",
            )
            run.measure(one, accuracy_now=world.accuracy(theta))
            if one.name == "NSDPO":
                lines.setdefault(case, {})[one.kwargs["gamma"]] = one.label
    run.expect("accuracy_now", "NS-DPO 0.9, drift", ">", "DPO, drift", by=0.15)
    run.expect("accuracy_now", "NS-DPO 0.95, drift", ">", "DPO, drift", by=0.1)
    run.expect("accuracy_now", "NS-DPO 0.95, no drift", ">", "DPO, no drift", by=-0.06)
    run.plot_lines("accuracy_now", "discount per unit of time (1 is DPO)", lines)
