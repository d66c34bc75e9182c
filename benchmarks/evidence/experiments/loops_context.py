"""Context distillation with the product's own loop."""

from __future__ import annotations

import torch
from torch.nn.functional import kl_div
from transformers import AutoModelForCausalLM, AutoTokenizer

from evidence.experiment import Run, experiment
from evidence.loop_runs import LOOP, Arms, evaluate, quiet, run_loop, sample
from evidence.product import method
from evidence.worlds.style import Style
from evidence.worlds.tiny import base_policy
from lit_align.callbacks.context_distilled import ContextDistilled

CONTEXT, PROMPTS, STEPS, EPOCHS = "be good please ", 1024, 250, 25


@experiment(
    claim="What a context does to a model can be distilled into its weights: without it the student does the same",
    paper="A General Language Assistant as a Laboratory for Alignment, arXiv 2112.00861",
    world=(
        "Texts, W1, with a context of three words before some of the demonstrations. After it 95 % of the words of an "
        "answer are meant well, without it 40 %; the model has learnt both."
    ),
    budget=f"{PROMPTS} answers of the teacher, {STEPS} steps of 64, AdamW 0.001 falling to 0, the 10 likeliest tokens",
    seeds=3,
    discussion=(
        "divergence: KL from the teacher with the context to the policy without, nats per token of the teacher's "
        "answers to prompts of the evaluation; gap closed: the student's gain in gold as a share of the teacher's."
    ),
)
def loops_context(run: Run) -> None:
    """Gold with and without the context, of the initial model and of the student."""
    if not run.needs("ContextDistillation"):
        return
    world, arms = Style(controls=CONTEXT.split()), Arms(run)
    (distillation,) = run.present(method("ContextDistillation", top_k=10))
    steps = max(EPOCHS, run.steps(STEPS) // EPOCHS * EPOCHS)
    evaluated = max(64, run.steps(2048))
    for seed in range(run.seeds):
        plain = world.demonstrations(4096, seed, share=0.4)
        good = world.demonstrations(4096, seed + 100, share=0.95)
        both = [*plain, *({**row, "prompt": CONTEXT + row["prompt"]} for row in good)]
        policy = base_policy(world, both, seed, steps=run.steps(500), layers=2)
        loop = ContextDistilled(CONTEXT, seed=seed, **{**LOOP, "epochs_per_round": EPOCHS})
        rows = world.prompt_rows(max(64, run.steps(PROMPTS)), seed + 1)
        (student,) = run_loop(distillation, policy, rows, loop, steps=steps, seed=seed, exact=False).policies
        golds = {
            "teacher, with the context": _gold(policy, world, CONTEXT, evaluated),
            "initial, without": evaluate(policy, world, evaluated)["gold"],
            "student, without": evaluate(student, world, evaluated)["gold"],
        }
        for label, gold in golds.items():
            arms.add(label, gold=gold)
        teacher, before, after = golds.values()
        arms.add("initial, without", divergence=_divergence(policy, policy, world))
        arms.add(
            "student, without",
            divergence=_divergence(policy, student, world),
            gap_closed=(after - before) / (teacher - before),
        )
    arms.values["one tenth of the initial"] = {
        "divergence": [value / 10 for value in arms.values["initial, without"]["divergence"]]
    }
    arms.measure()
    run.expect("divergence", "student, without", "<", "one tenth of the initial")
    run.expect("gap_closed", "student, without", ">", 0.9)
    run.compare_with_spec("divergence", "initial, without", (0.3103, 0.2999))
    run.compare_with_spec("divergence", "student, without", (0.0042, 0.0039))
    run.compare_with_spec("gold", "teacher, with the context", (2.129, 2.142))
    run.compare_with_spec("gold", "student, without", (2.128, 2.130))
    run.plot_bars("gold", "divergence")


def _gold(policy: str, world: Style, context: str, prompts: int) -> float:
    """Mean gold of answers that a policy gives after a context."""
    asked = world.prompts(prompts, 10_000)
    answers = [one for (one,) in sample(policy, [context + prompt for prompt in asked], seed=10_000)]
    return sum(world.gold(prompt, one.text) for prompt, one in zip(asked, answers, strict=True)) / prompts


@torch.no_grad()
def _divergence(teacher: str, student: str, world: Style, prompts: int = 256) -> float:
    """Mean KL of next-token distributions, nats per token, over answers of the teacher."""
    asked = world.prompts(prompts, 20_000)
    answers = [one for (one,) in sample(teacher, [CONTEXT + prompt for prompt in asked], seed=20_000)]
    with quiet():
        tokenizer = AutoTokenizer.from_pretrained(teacher)
        models = [AutoModelForCausalLM.from_pretrained(folder).eval() for folder in (teacher, student)]
    total, tokens = 0.0, 0
    for prompt, answer in zip(asked, answers, strict=True):
        logps = []
        for model, before in zip(models, (CONTEXT + prompt, prompt), strict=True):
            ids = tokenizer(before + answer.text, return_tensors="pt")["input_ids"]
            first = len(tokenizer(before)["input_ids"]) - 1
            logps.append(model(input_ids=ids).logits[0, first:].double().log_softmax(-1))
        # The last position is that of the end.
        divergence = kl_div(logps[1], logps[0], reduction="sum", log_target=True)
        total, tokens = total + divergence.item(), tokens + len(logps[0])
    return total / tokens
