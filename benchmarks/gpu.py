"""Speed and memory of DPO on one GPU, against TRL: `python benchmarks/gpu.py [--shape 1b] [--data ultrafeedback ...]`.

Random models built from a configuration, token lengths drawn like those of real data sets, 32 pairs per optimiser
step, bfloat16 autocast over float32 weights (LoRA: bfloat16), fused AdamW. Every system runs in its own process:

A  TRL's DPOTrainer as it comes (checkpointing on)       D  ours, packed
B  TRL tuned: no checkpointing, larger micro-batches,    E  ours, packed and shared
   reference computed beforehand                         F  E with cached reference
C  ours, padded                                          G  F without checkpointing

A to F use activation checkpointing (B does not); B, F and G have no reference pass in the step.
"""

from __future__ import annotations

import argparse
import copy
import json
import math
import random
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from statistics import median
from typing import Any

import torch
from measure import table
from transformers import LlamaConfig, LlamaForCausalLM

from lit_align.core.batch import Example, Layout, Rows
from lit_align.core.forward import Scorer
from lit_align.core.layout import build_rows, flat_length
from lit_align.core.outputs import PairLogps
from lit_align.methods.dpo import dpo_loss

PAIRS_PER_STEP = 32
PEAK_FLOPS = 989e12
"""Dense bfloat16 of an H100 or H200."""
SHAPES: dict[str, dict[str, Any]] = {
    "tiny": {"hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2, "num_attention_heads": 4,
             "num_key_value_heads": 2, "vocab_size": 512, "tie_word_embeddings": True},
    "0.5b": {"hidden_size": 896, "intermediate_size": 4864, "num_hidden_layers": 24, "num_attention_heads": 14,
             "num_key_value_heads": 2, "vocab_size": 151_936, "tie_word_embeddings": True},
    "1b": {"hidden_size": 2048, "intermediate_size": 8192, "num_hidden_layers": 16, "num_attention_heads": 32,
           "num_key_value_heads": 8, "vocab_size": 128_256, "tie_word_embeddings": True},
    "8b": {"hidden_size": 4096, "intermediate_size": 14_336, "num_hidden_layers": 32, "num_attention_heads": 32,
           "num_key_value_heads": 8, "vocab_size": 128_256, "tie_word_embeddings": False},
}  # fmt: skip
LENGTHS = {
    "ultrafeedback": (409, 0.42),
    "capybara": (1160, 1.59),
    "hh": (186, 2.15),
    "metamath": (872, 3.91),
    "tldr": (416, 11.1),
}
"""Median tokens of prompt plus response, and prompt over response."""
SYSTEMS = {"A": "TRL default", "B": "TRL tuned", "C": "padded", "D": "packed", "E": "packed, shared",
           "F": "E, cached reference", "G": "F, no checkpointing"}  # fmt: skip


def draw_pairs(data: str, number: int, vocabulary: int, limit: int = 4096) -> list[Example]:
    """Pairs with log-normal lengths around the medians of a data set."""
    total, ratio = LENGTHS[data]
    draw = random.Random(0)

    def length(middle: float) -> int:
        return max(8, min(limit // 2, round(draw.lognormvariate(math.log(middle), 0.7))))

    pairs = []
    for row in range(number):
        prompt = [draw.randrange(3, vocabulary) for _ in range(length(total * ratio / (1 + ratio)))]
        answers = [[*(draw.randrange(3, vocabulary) for _ in range(length(total / (1 + ratio)) - 1)), 2] for _ in "ab"]
        ids = [prompt + answer for answer in answers]
        pairs.append(Example(row=row, ids=ids, prompt_lengths=[len(prompt)] * 2, pairs=[(0, 1)]))
    return pairs


def build(shape: str, seed: int, dtype: torch.dtype, lora: bool, checkpointing: bool) -> torch.nn.Module:
    """A random model on the device."""
    torch.manual_seed(seed)
    config = LlamaConfig(
        max_position_embeddings=8192, use_cache=False, bos_token_id=1, eos_token_id=2, pad_token_id=0, **SHAPES[shape]
    )
    with torch.device(DEVICE):
        model: Any = LlamaForCausalLM(config).to(dtype)
    if checkpointing:
        model.gradient_checkpointing_enable({"use_reentrant": False})
        model.enable_input_require_grads()
    if lora:
        model = with_lora(model)
    return model.train()


def with_lora(model: Any) -> Any:
    """Rank-16 adapters in float32 on all linear layers but the head."""
    from peft import LoraConfig, get_peft_model

    return get_peft_model(model, LoraConfig(r=16, lora_alpha=32, target_modules="all-linear", task_type="CAUSAL_LM"))


class Ours:
    """One optimiser step of this library's core."""

    def __init__(self, system: str, shape: str, lora: bool, examples: list[Example], budget: int) -> None:
        self.layout = {"C": Layout.PADDED, "D": Layout.PACKED}.get(system, Layout.SHARED)
        dtype = torch.bfloat16 if lora else torch.float32
        self.policy = Scorer(build(shape, 0, dtype, lora, checkpointing=system != "G"))
        self.lora, self.cached = lora, system in "FG"
        self.reference = None
        if not (lora or self.cached):
            self.reference = Scorer(copy.deepcopy(self.policy.model).to(torch.bfloat16)).requires_grad_(False).eval()
        trained = [p for p in self.policy.parameters() if p.requires_grad]
        self.optimizer = torch.optim.AdamW(trained, lr=1e-6, fused=DEVICE == "cuda")
        self.examples, self.budget = examples, budget
        self.tokens = 0

    def micro_batches(self, step: int) -> list[list[Example]]:
        """The step's pairs, in micro-batches within the token budget; random fours for padded rows."""
        start = step * PAIRS_PER_STEP % len(self.examples)
        chosen = self.examples[start : start + PAIRS_PER_STEP]
        if self.layout is Layout.PADDED:
            return [chosen[i : i + 4] for i in range(0, len(chosen), 4)]
        groups: list[list[Example]] = []
        room: list[int] = []
        for example in sorted(chosen, key=lambda e: -flat_length(e, self.layout)):
            need = flat_length(example, self.layout)
            slot = next((i for i, free in enumerate(room) if free >= need), None)
            if slot is None:
                groups.append([example])
                room.append(self.budget - need)
            else:
                groups[slot].append(example)
                room[slot] -= need
        return groups

    def score_reference(self, rows: Rows) -> torch.Tensor:
        """Log-probabilities of the responses under the reference."""
        if self.cached:
            return torch.zeros(len(rows.response_lengths), dtype=torch.float64, device=DEVICE)
        with torch.no_grad():
            if self.reference is not None:
                return self.reference.sequence_logps(rows).sums
            with self.policy.model.disable_adapter():  # type: ignore[operator]
                return self.policy.sequence_logps(rows).sums

    def __call__(self, step: int) -> float:
        """Train on the step's pairs; returns their loss."""
        total = 0.0
        for batch in self.micro_batches(step):
            rows = to_device(build_rows(batch, self.layout))
            self.tokens += rows.input_ids.numel()
            with torch.autocast(DEVICE, torch.bfloat16):
                reference = self.score_reference(rows)
                policy = self.policy.sequence_logps(rows).sums
            ones = torch.ones(len(batch), device=DEVICE)
            halves = [PairLogps(x[0::2], x[1::2], ones, ones) for x in (policy, reference)]
            loss = dpo_loss(*halves, beta=0.1).sum() / PAIRS_PER_STEP
            loss.backward()
            total += loss.detach()
        torch.nn.utils.clip_grad_norm_(self.policy.parameters(), 1.0)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        return float(total)


def to_device(rows: Rows) -> Rows:
    """Move rows without waiting."""
    from lightning.fabric.utilities import move_data_to_device

    return move_data_to_device(rows, torch.device(DEVICE))


def run_ours(arguments: argparse.Namespace, examples: list[Example]) -> dict[str, Any]:
    """Time our system."""
    step = Ours(arguments.system, arguments.shape, arguments.lora, examples, arguments.budget)
    for i in range(arguments.warmup):
        first = step(i)
        if i == 0:
            loss = first
    step.tokens = 0
    seconds = []
    reset_memory()
    for i in range(arguments.warmup, arguments.warmup + arguments.steps):
        seconds.append(timed(lambda i=i: step(i)))
    return {"seconds": seconds, "loss": loss, "computed": step.tokens / arguments.steps, **memory()}


def run_trl(arguments: argparse.Namespace, examples: list[Example]) -> dict[str, Any]:
    """Time TRL's trainer on the same token ids."""
    from datasets import Dataset
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast, TrainerCallback
    from trl import DPOConfig, DPOTrainer

    size = SHAPES[arguments.shape]["vocab_size"]
    vocabulary = {"<pad>": 0, "<s>": 1, "</s>": 2, **{f"w{i}": i for i in range(3, size)}}
    words = Tokenizer(models.WordLevel(vocabulary, unk_token="<pad>"))
    words.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=words, pad_token="<pad>", bos_token="<s>", eos_token="</s>")

    def text(ids: list[int]) -> str:
        return " " + " ".join(f"w{i}" for i in ids)

    needed = examples[: PAIRS_PER_STEP * (arguments.warmup + arguments.steps)]
    rows = [
        {"prompt": text(e.ids[0][: e.prompt_lengths[0]]), "chosen": text(e.ids[0][e.prompt_lengths[0] : -1]),
         "rejected": text(e.ids[1][e.prompt_lengths[0] : -1])}
        for e in needed
    ]  # fmt: skip
    tuned = arguments.system == "B"
    folder = tempfile.mkdtemp()
    dtype = torch.bfloat16 if arguments.lora else torch.float32
    policy = build(arguments.shape, 0, dtype, arguments.lora, checkpointing=False)
    reference = None if arguments.lora or tuned else build(arguments.shape, 0, dtype, False, checkpointing=False).eval()
    for model in (policy, reference):
        if model is not None:
            model.config._name_or_path = folder
    seconds: list[float] = []

    class Clock(TrainerCallback):
        def on_step_begin(self, *_: Any, **__: Any) -> None:
            if len(seconds) == arguments.warmup:
                reset_memory()
            synchronize()
            self.started = time.perf_counter()

        def on_step_end(self, *_: Any, **__: Any) -> None:
            synchronize()
            seconds.append(time.perf_counter() - self.started)

    micro = arguments.trl_batch or (8 if tuned else 4)
    trainer = DPOTrainer(
        model=policy,
        ref_model=reference,
        args=DPOConfig(
            output_dir=folder,
            per_device_train_batch_size=micro,
            gradient_accumulation_steps=PAIRS_PER_STEP // micro,
            max_steps=arguments.warmup + arguments.steps,
            gradient_checkpointing=not tuned,
            precompute_ref_log_probs=tuned,
            precompute_ref_batch_size=micro if tuned else None,
            bf16=DEVICE == "cuda",
            use_cpu=DEVICE == "cpu",
            max_length=8192,
            logging_steps=1,
            report_to=[],
            save_strategy="no",
            disable_tqdm=True,
            learning_rate=1e-6,
            beta=0.1,
        ),
        train_dataset=Dataset.from_list(rows),
        processing_class=tokenizer,
        callbacks=[Clock()],
    )
    trainer.train()
    losses = [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]
    return {"seconds": seconds[arguments.warmup :], "loss": losses[0], "computed": float("nan"), **memory()}


def synchronize() -> None:
    """Wait for the device."""
    if DEVICE == "cuda":
        torch.cuda.synchronize()


def timed(run: Any) -> float:
    """Seconds of one call, the device's work included."""
    synchronize()
    started = time.perf_counter()
    run()
    synchronize()
    return time.perf_counter() - started


def reset_memory() -> None:
    """Forget earlier peaks."""
    if DEVICE == "cuda":
        torch.cuda.reset_peak_memory_stats()


def memory() -> dict[str, float]:
    """Peak memory, GiB."""
    if DEVICE != "cuda":
        return {"allocated": float("nan"), "reserved": float("nan")}
    return {
        "allocated": torch.cuda.max_memory_allocated() / 2**30,
        "reserved": torch.cuda.max_memory_reserved() / 2**30,
    }


def one(arguments: argparse.Namespace) -> None:
    """Run one system in this process and print its numbers as JSON."""
    examples = draw_pairs(
        arguments.data[0], PAIRS_PER_STEP * (arguments.warmup + arguments.steps), SHAPES[arguments.shape]["vocab_size"]
    )
    result = (run_trl if arguments.system in "AB" else run_ours)(arguments, examples)
    useful = sum(len(ids) for e in examples[arguments.warmup * PAIRS_PER_STEP :] for ids in e.ids) / arguments.steps
    shape = SHAPES[arguments.shape]
    kv = shape["num_key_value_heads"] / shape["num_attention_heads"]
    layer = shape["hidden_size"] ** 2 * (2 + 2 * kv) + 3 * shape["hidden_size"] * shape["intermediate_size"]
    result |= {"useful": useful, "body": layer * shape["num_hidden_layers"]}
    print(json.dumps(result))


def compare(arguments: argparse.Namespace, data: str) -> str:
    """Run all systems on one data set, each in a process of its own."""
    rows, rates = [], {}
    for system in arguments.systems:
        command = [
            sys.executable, __file__, "--system", system, "--shape", arguments.shape, "--data", data,
            "--steps", str(arguments.steps), "--warmup", str(arguments.warmup), "--budget", str(arguments.budget),
            "--trl-batch", str(arguments.trl_batch), *(["--lora"] if arguments.lora else []),
        ]  # fmt: skip
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            reason = next((line for line in reversed(done.stderr.splitlines()) if "Error" in line), done.stderr[-200:])
            rows.append([system, SYSTEMS[system], reason[:100], *[""] * 7])
            continue
        r = json.loads(done.stdout.strip().splitlines()[-1])
        middle = median(r["seconds"])
        rates[system] = PAIRS_PER_STEP / middle
        low, high = sorted(r["seconds"])[len(r["seconds"]) // 10], sorted(r["seconds"])[-1 - len(r["seconds"]) // 10]
        mfu = (4 if arguments.lora else 6) * r["body"] * r["computed"] / middle / PEAK_FLOPS
        rows.append(
            [system, SYSTEMS[system], f"{middle:.3f}", f"{low:.3f}-{high:.3f}",
             f"{rates[system]:.1f}", f"{r['useful'] / middle:.0f}", f"{r['computed'] / middle:.0f}",
             f"{r['allocated']:.1f}", f"{mfu:.0%}" if mfu == mfu else "", f"{r['loss']:.4f}"]
        )  # fmt: skip
    ratios = [
        f"{a} / {b} = {rates[a] / rates[b]:.2f}"
        for a, b in (("E", "A"), ("E", "C"), ("D", "C"), ("G", "B"), ("G", "A"))
        if a in rates and b in rates
    ]
    name = f"{arguments.shape}{', LoRA r = 16' if arguments.lora else ', full fine-tuning'}, lengths like {data}"
    header = [
        "",
        "system",
        "s / step",
        "p10-p90",
        "pairs / s",
        "useful tokens / s",
        "computed tokens / s",
        "GiB",
        "body MFU",
        "first loss",
    ]
    return table(name, header, rows, "Speed ratios: " + ", ".join(ratios) + ".")


def main() -> None:
    """Print a table per data set."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shape", choices=SHAPES, default="1b")
    parser.add_argument("--lora", action="store_true")
    parser.add_argument("--data", nargs="+", choices=LENGTHS, default=["ultrafeedback", "metamath"])
    parser.add_argument("--systems", nargs="+", choices=SYSTEMS, default=list(SYSTEMS))
    parser.add_argument("--steps", type=int, default=10)
    parser.add_argument("--warmup", type=int, default=3)
    parser.add_argument("--budget", type=int, default=8192, help="tokens per micro-batch of packed and shared rows")
    parser.add_argument("--trl-batch", type=int, default=0, help="pairs per micro-batch of TRL; 0: 4, or 8 tuned")
    parser.add_argument("--out", type=Path)
    parser.add_argument("--system", choices=SYSTEMS, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.system:
        one(arguments)
        return
    name = torch.cuda.get_device_name() if DEVICE == "cuda" else "CPU"
    text = f"{name}, torch {torch.__version__}, 32 pairs per optimiser step, median of {arguments.steps} steps\n\n"
    print(text)
    for data in arguments.data:
        part = compare(arguments, data)
        print(part, flush=True)
        text += part + "\n"
        if arguments.out:
            arguments.out.write_text(text)


DEVICE = "cuda" if torch.cuda.is_available() else "cpu"

if __name__ == "__main__":
    main()
