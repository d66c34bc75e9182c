"""Speed of one DPO step on the CPU, and what each idea of the core buys: `python benchmarks/step.py [--quick]`.

A random 56-million-parameter Llama with a vocabulary of 32,000, float32, one thread. A step is the reference's forward
pass, the policy's, and its backward pass. Numbers are seconds of CPU time; compare ratios, not seconds.
"""

from __future__ import annotations

import argparse
import copy
import math
import platform
import random
import sys
from collections.abc import Callable
from pathlib import Path

from measure import in_fresh_process, peak_of, single_threaded, table, time_in_turn

if __name__ == "__main__" and "--head-memory" not in sys.argv:
    single_threaded()

import torch
from torch import Tensor
from transformers import LlamaConfig, LlamaForCausalLM

from lit_align.core import forward
from lit_align.core.batch import Example, Layout
from lit_align.core.forward import Scorer
from lit_align.core.layout import build_rows, flat_length
from lit_align.core.outputs import PairLogps
from lit_align.functional.logprobs import token_logprobs
from lit_align.methods.dpo import dpo_loss

VOCABULARY = 32_000
SHARES = {25: (192, 576), 50: (384, 384), 75: (576, 192), 90: (692, 76)}
"""Prompt share in percent: tokens of prompt and of each response."""


def build_model(seed: int = 0) -> LlamaForCausalLM:
    """A random Llama of 56 million parameters."""
    torch.manual_seed(seed)
    return LlamaForCausalLM(
        LlamaConfig(
            vocab_size=VOCABULARY,
            hidden_size=512,
            intermediate_size=1408,
            num_hidden_layers=8,
            num_attention_heads=8,
            num_key_value_heads=4,
            max_position_embeddings=8192,
            tie_word_embeddings=False,
            use_cache=False,
        )
    )


def pair(prompt: int, chosen: int, rejected: int, draw: random.Random) -> Example:
    """A random pair of the given lengths."""
    ids = [draw.randrange(3, VOCABULARY) for _ in range(prompt)]
    answers = [[draw.randrange(3, VOCABULARY) for _ in range(n)] for n in (chosen, rejected)]
    return Example(row=1, ids=[ids + a for a in answers], prompt_lengths=[prompt, prompt], pairs=[(0, 1)])


class Step:
    """Forward and backward passes of DPO."""

    def __init__(self) -> None:
        self.policy = Scorer(build_model())
        self.reference = Scorer(copy.deepcopy(self.policy.model)).requires_grad_(False).eval()

    def __call__(self, batches: list[list[Example]], layout: Layout) -> None:
        """One pass over all micro-batches."""
        for batch in batches:
            rows = build_rows(batch, layout)
            with torch.no_grad():
                reference = self.reference.sequence_logps(rows).sums
            policy = self.policy.sequence_logps(rows).sums
            first, pairs = 0, []
            for example in batch:
                pairs += [(first + i, first + j) for i, j in example.pairs]
                first += len(example.ids)
            chosen, rejected = torch.tensor(pairs).T
            ones = torch.ones(len(chosen))
            dpo_loss(
                PairLogps(policy[chosen], policy[rejected], ones, ones),
                PairLogps(reference[chosen], reference[rejected], ones, ones),
                beta=0.1,
            ).mean().backward()
        self.policy.zero_grad(set_to_none=True)


def step_flops(step: Step, prompt: int, response: int, shared: bool) -> float:
    """Multiply-adds times two of one pair's step: reference and policy forward, backward, head with recomputation."""
    config = step.policy.model.config
    head = config.vocab_size * config.hidden_size
    body = sum(p.numel() for p in step.policy.model.model.layers.parameters())
    whole = prompt + response
    tokens = prompt + 2 * response if shared else 2 * whole
    causal = whole**2 / 2
    pairs = 2 * causal - (prompt**2 / 2 if shared else 0)
    attention = 4 * config.hidden_size * config.num_hidden_layers * pairs
    return 8 * body * tokens + 10 * head * 2 * response + 4.5 * attention


def shares(step: Step, repeats: int) -> str:
    """Prefix-shared and packed rows against padded ones, equal lengths."""
    rows = []
    for share, (prompt, response) in SHARES.items():
        draw = random.Random(share)
        batches = [[pair(prompt, response, response, draw) for _ in range(2)]]
        times = time_in_turn(
            {layout.value: (lambda layout=layout, batches=batches: step(batches, layout)) for layout in Layout}, repeats
        )
        padded, packed, shared = (times[layout.value] for layout in Layout)
        bound = step_flops(step, prompt, response, False) / step_flops(step, prompt, response, True)
        gain, even = padded.median / shared.median, padded.median / packed.median
        verdict = "ok" if gain >= 0.9 * bound and even >= 0.93 else "BELOW"
        rows.append(
            [
                f"{share} %",
                padded,
                packed,
                shared,
                f"{even:.2f}",
                f"{gain:.2f}",
                f"{bound:.2f}",
                f"{gain / bound:.2f}",
                verdict,
            ]
        )
    return table(
        "Shared prompts, 2 pairs of equal length (768 tokens)",
        ["prompt", "padded, s", "packed, s", "shared, s", "packed x", "shared x", "FLOP ratio", "of bound", "gate"],
        rows,
        "Gate: shared at least 0.9 of the FLOP ratio, packed at least 0.93 of padded.",
    )


def skewed_pairs(number: int) -> list[Example]:
    """Pairs of log-normal lengths: prompts of median 150, responses of median 110 tokens."""
    draw = random.Random(0)

    def length(middle: float, sigma: float) -> int:
        return max(4, min(1200, round(draw.lognormvariate(math.log(middle), sigma))))

    return [pair(length(150, 0.9), length(110, 0.8), length(110, 0.8), draw) for _ in range(number)]


def first_fit(examples: list[Example], layout: Layout, budget: int) -> list[list[Example]]:
    """Group examples into micro-batches of at most `budget` tokens, the longest first."""
    groups: list[list[Example]] = []
    room: list[int] = []
    for example in sorted(examples, key=lambda e: -flat_length(e, layout)):
        need = flat_length(example, layout)
        slot = next((i for i, free in enumerate(room) if free >= need), None)
        if slot is None:
            groups.append([example])
            room.append(budget - need)
        else:
            groups[slot].append(example)
            room[slot] -= need
    return groups


def skewed(step: Step, repeats: int) -> str:
    """Packed and shared rows against randomly batched padded ones, on lengths as real data have them."""
    examples = skewed_pairs(16)
    random_order = [examples[i : i + 8] for i in range(0, 16, 8)]
    by_length = sorted(examples, key=lambda e: max(map(len, e.ids)))
    variants = {
        "padded, random batches of 8": (random_order, Layout.PADDED),
        "padded, batches of similar length": ([by_length[i : i + 8] for i in range(0, 16, 8)], Layout.PADDED),
        "packed, 4096 tokens": (first_fit(examples, Layout.PACKED, 4096), Layout.PACKED),
        "packed and shared, 4096 tokens": (first_fit(examples, Layout.SHARED, 4096), Layout.SHARED),
    }
    times = time_in_turn({k: (lambda v=v: step(*v)) for k, v in variants.items()}, repeats)
    base = times["padded, random batches of 8"].median
    rows = []
    for name, (batches, layout) in variants.items():
        computed = sum(build_rows(batch, layout).input_ids.numel() for batch in batches)
        rows.append([name, len(batches), computed, times[name], f"{base / times[name].median:.2f}"])
    return table(
        "Skewed lengths, 16 pairs",
        ["batching", "micro-batches", "tokens", "CPU s", "speed-up"],
        rows,
        "Gate: packed and shared at least 2.00.",
    )


def ranked(step: Step, repeats: int) -> str:
    """All six pairs of four ranked responses, each response scored once, against six separate pairs."""
    draw = random.Random(1)
    prompt = [draw.randrange(3, VOCABULARY) for _ in range(256)]
    answers = [[draw.randrange(3, VOCABULARY) for _ in range(128)] for _ in range(4)]
    order = [(i, j) for i in range(4) for j in range(i + 1, 4)]
    tree = Example(row=1, ids=[prompt + a for a in answers], prompt_lengths=[256] * 4, pairs=order)
    separate = [
        Example(row=1, ids=[prompt + answers[i], prompt + answers[j]], prompt_lengths=[256] * 2, pairs=[(0, 1)])
        for i, j in order
    ]
    times = time_in_turn(
        {"pairs": lambda: step([separate], Layout.PADDED), "tree": lambda: step([[tree]], Layout.SHARED)}, repeats
    )
    gain = times["pairs"].median / times["tree"].median
    return table(
        "Ranked data, K = 4, all pairs (prompt 256, responses 128)",
        ["six padded pairs, s", "one tree, s", "speed-up"],
        [[times["pairs"], times["tree"], f"{gain:.2f}"]],
        "Gate: at least 4.00.",
    )


def gather_logsumexp(hidden: Tensor, weight: Tensor, target: Tensor) -> Tensor:
    """The plain head: all logits at once."""
    logits = hidden @ weight.T
    return logits.gather(-1, target[:, None])[:, 0] - logits.logsumexp(-1)


def head(repeats: int) -> str:
    """The chunked head against one that keeps all logits: forward, backward, and memory as tokens grow."""
    rows = []
    for tokens in (512, 1024, 2048, 4096):
        runs = {name: _head_run(name, tokens) for name in ("plain", "chunked", "chunked, frozen")}
        times = time_in_turn(runs, repeats)
        memory = {
            name: in_fresh_process(__file__, "--head-memory", name, str(tokens))["MiB"] for name in ("plain", "chunked")
        }
        ratio = times["chunked"].median / times["plain"].median
        rows.append(
            [tokens, times["plain"], times["chunked"], f"{ratio:.2f}", times["chunked, frozen"],
             f"{memory['plain']:.0f}", f"{memory['chunked']:.0f}"]
        )  # fmt: skip
    return table(
        "Head, hidden size 512, vocabulary 32,000, forward and backward",
        ["tokens", "plain, s", "chunked, s", "ratio", "frozen head, s", "plain, MiB", "chunked, MiB"],
        rows,
        "Gate: memory that does not grow with the tokens beyond one tile (the gradient of the weight, 63 MiB, and of "
        "the hidden states are in both). A head computed again in the backward pass does a third more arithmetic; "
        "what that is of a step stands below.",
    )


def head_in_step(step: Step, repeats: int) -> str:
    """What recomputing the logits costs a whole step: 6 pairs, 3,072 scored tokens, several tiles."""
    draw = random.Random(2)
    batches = [[pair(256, 256, 256, draw) for _ in range(6)]]
    chunked = forward.token_logprobs

    def plain() -> None:
        forward.token_logprobs = lambda hidden, weight, target, **_: gather_logsumexp(hidden, weight, target)
        try:
            step(batches, Layout.SHARED)
        finally:
            forward.token_logprobs = chunked

    times = time_in_turn({"plain": plain, "chunked": lambda: step(batches, Layout.SHARED)}, repeats)
    ratio = times["chunked"].median / times["plain"].median
    return table(
        "Head within a step, 6 pairs of 256 + 256 tokens",
        ["all logits kept, s", "chunked, s", "ratio"],
        [[times["plain"], times["chunked"], f"{ratio:.2f}"]],
        "Gate: at most 1.12.",
    )


def _head_run(name: str, tokens: int) -> Callable[[], None]:
    generator = torch.Generator().manual_seed(0)
    hidden = torch.randn(tokens, 512, generator=generator).requires_grad_()
    weight = (torch.randn(VOCABULARY, 512, generator=generator) * 0.05).requires_grad_("frozen" not in name)
    target = torch.randint(VOCABULARY, (tokens,), generator=generator)
    function = gather_logsumexp if name == "plain" else token_logprobs

    def run() -> None:
        function(hidden, weight, target).sum().backward()
        hidden.grad = weight.grad = None

    return run


def against_trl(repeats: int) -> str:
    """TRL's DPOTrainer on the same pairs, each system in a process of its own."""
    script = str(Path(__file__).with_name("trl_step.py"))
    rows = []
    for prompt, response in ((256, 256), (460, 52)):
        results = {
            system: in_fresh_process(script, system, str(prompt), str(response), str(repeats))
            for system in ("trl-default", "trl-no-checkpointing", "ours-padded", "ours-shared")
        }
        base = results["trl-no-checkpointing"]["seconds"]
        rows += [
            [
                f"{prompt} + {response}",
                name,
                f"{r['seconds']:.2f}",
                f"{base / r['seconds']:.2f}",
                f"{r['MiB']:.0f}",
                f"{r['loss']:.6f}",
            ]
            for name, r in results.items()
        ]
    return table(
        "TRL 1.16 DPOTrainer, 2 pairs, separate reference, float32",
        [
            "prompt + response",
            "system",
            "step, CPU s",
            "against TRL without checkpointing",
            "peak over start, MiB",
            "first loss",
        ],
        rows,
        "Read with care: on the CPU TRL scores every position, prompts too, and computes entropy and other statistics "
        "in separate passes; its GPU kernel does not. What carries over to a GPU is the step from our padded to our "
        "shared rows, and packing.",
    )


def main() -> None:
    """Run the parts that were asked for and print their tables."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="one timed repeat instead of three")
    parser.add_argument("--only", nargs="*", default=["shares", "skewed", "ranked", "head", "step", "trl"])
    parser.add_argument("--out", type=Path, help="also write the tables to this file")
    parser.add_argument("--head-memory", nargs=2, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    if arguments.head_memory:
        name, tokens = arguments.head_memory
        print(f'{{"MiB": {peak_of(_head_run(name, int(tokens)))}}}')
        return
    repeats = 1 if arguments.quick else 3
    step = Step()
    parts: dict[str, Callable[[], str]] = {
        "shares": lambda: shares(step, repeats),
        "skewed": lambda: skewed(step, repeats),
        "ranked": lambda: ranked(step, repeats),
        "head": lambda: head(repeats),
        "step": lambda: head_in_step(step, repeats),
        "trl": lambda: against_trl(repeats),
    }
    text = (
        f"torch {torch.__version__}, Python {platform.python_version()}, one thread, median [min-max] of {repeats}\n\n"
    )
    print(text)
    for name in arguments.only:
        part = parts[name]()
        print(part, flush=True)
        text += part + "\n"
    if arguments.out:
        arguments.out.write_text(text)


if __name__ == "__main__":
    main()
