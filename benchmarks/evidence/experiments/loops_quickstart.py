"""Loops on the quickstart's model, by the configurations that users run."""

from __future__ import annotations

from evidence.experiment import Run, experiment
from evidence.loop_runs import Arms
from evidence.product import method
from evidence.quickstart_runs import first_model, replies, run_configuration


@experiment(
    claim="Samplers around the policy teach more than two of its own answers, and these more than the reference's",
    paper="The Crucial Role of Samplers, arXiv 2409.19605",
    world="The quickstart's: household questions, of which its first model answers about half courteously.",
    budget=(
        "configs/quickstart/samplers.yaml: 3 rounds of 320 prompts, two answers each at temperature 1, 4 epochs in "
        "batches of 16, soft labels by the quickstart's rule, beta 0.5, SGD"
    ),
    seeds=5,
    discussion=(
        "mix_p mixes the logits of policy and reference, mix_r picks the best and the worst of eight answers, and so "
        "pays for more of them. With one epoch to a round (seeds 0 to 2) policies hardly leave the reference, and only "
        "mix_r stood out. Four epochs were then set, seven of the seeds 0 to 7 run with all four samplers (mix_p ahead "
        "of online in all, by 0.01 to 0.03), and the configuration run once with the seeds 10 to 14, which are shown; "
        "that mix_p be ahead of the reference was asked afterwards. The reference's own answers teach the tone as well "
        "as the policy's, and cost four points of right answers. Held-out pairs are of the reference's kind, so that "
        "its answers tell them apart best. Where the reference seldom shows what counts, it is far behind, and mixed "
        "logits tie with the policy's own answers (loops_samplers)."
    ),
)
def loops_samplers_quickstart(run: Run) -> None:
    """The share of preferred replies, by who writes the answers."""
    run.present(method("SoftDPO", beta=0.5))
    arms, before = Arms(run), replies(first_model())
    for seed in range(10, 10 + run.seeds):
        arms.add("SFT", **before)
        for sampler in ("reference", "online", "mix_p", "mix_r"):
            changes = {"seed_everything": seed, "trainer.callbacks.seed": seed, "trainer.callbacks.sampler": sampler}
            given = [part for name, value in changes.items() for part in (f"--{name}", str(value))]
            arms.add(sampler, **replies(run_configuration("samplers", f"{sampler}_{seed}", *given)))
    arms.measure("preferred", "right", "accuracy")
    run.expect("preferred", "reference", ">", "SFT")
    run.expect("preferred", "online", ">", "reference")
    run.expect("preferred", "mix_p", ">", "reference")
    run.expect("preferred", "mix_p", ">", "online")
    run.expect("preferred", "mix_r", ">", "online")
    run.plot_bars("preferred", "right")
