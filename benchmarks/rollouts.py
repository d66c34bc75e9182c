"""Tokens per second of the rollout engine, beside Hugging Face's own ways to generate.

python benchmarks/rollouts.py [--model FOLDER ...] [--results FILE]

Every arm writes the same number of samples of the same prompts, at temperature 1: plain `model.generate` and our
engine with every prompt repeated, our engine with one computation of the prompt for all its samples, and transformers'
continuous batching. Prompts are random tokens of random lengths. The model is the quickstart's, with random weights,
and those in the folders that are given. One thread, seconds of CPU time of the whole process, arms in turn, median of
three repeats after a warm-up. How many tokens an arm writes follows from its own random numbers: hence the speeds.
"""

from __future__ import annotations

import argparse
import json
import logging
import os
import platform
import random
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from measure import single_threaded, table, time_in_turn

if __name__ == "__main__":
    single_threaded()

import torch
import transformers
from transformers import AutoModelForCausalLM, AutoTokenizer, ContinuousBatchingConfig, GenerationConfig

from lit_align.evaluation.quickstart_data import make_world, write_model, write_world
from lit_align.rollouts.hf import generate

PROMPTS, SAMPLES, NEW, ROWS = 8, 8, 64, 32
LENGTHS = {"short prompts": (8, 32), "long prompts": (96, 192)}
"""Tokens of a prompt, least and most."""


def main() -> None:
    """Measure every model, and write what came of it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, nargs="*", default=[], help="folders of further models")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--results", type=Path, default=Path("benchmarks/results/rollouts.json"))
    given = parser.parse_args()
    transformers.utils.logging.set_verbosity_error()
    logging.getLogger("ContinuousBatchingLogger").setLevel(logging.ERROR)
    with tempfile.TemporaryDirectory() as folder:
        models = {"quickstart": quickstart(Path(folder)), **{path.name: path for path in given.model}}
        results: dict[str, Any] = {"machine": machine()}
        results["models"] = {name: measured(path, given.repeats) for name, path in models.items()}
    given.results.write_text(json.dumps(results, indent=2) + "\n", encoding="utf-8")
    given.results.with_suffix(".md").write_text(page(results), encoding="utf-8")
    print(page(results))


def quickstart(folder: Path) -> Path:
    """The quickstart's initial model."""
    files = write_world(make_world(), folder / "data")
    texts = [path.read_text(encoding="utf-8") for path in sorted(set(files.values()))]
    return write_model(texts, folder / "model")


def machine() -> dict[str, Any]:
    """What the numbers depend on."""
    named = [line.partition(":")[2].strip() for line in _lines("/proc/cpuinfo") if line.startswith("model name")]
    return {
        "processor": named[0] if named else platform.processor(),
        "cores": os.cpu_count(),
        "load": round(os.getloadavg()[0], 1),
        "torch": torch.__version__,
        "transformers": transformers.__version__,
    }


def _lines(path: str) -> list[str]:
    return Path(path).read_text(encoding="utf-8").splitlines() if Path(path).is_file() else []


def measured(folder: Path, repeats: int) -> dict[str, Any]:
    """Speeds of all arms for a model, by length of the prompts."""
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    tokenizer = AutoTokenizer.from_pretrained(folder)
    found: dict[str, Any] = {"parameters": sum(p.numel() for p in model.parameters())}
    for name, (least, most) in LENGTHS.items():
        draw = random.Random(0)
        ids = range(10, model.config.vocab_size)
        prompts = [draw.choices(ids, k=draw.randint(least, most)) for _ in range(PROMPTS)]
        found[name] = speeds(arms(model, tokenizer, prompts), repeats)
    return found


def speeds(writers: dict[str, Callable[[], int]], repeats: int) -> dict[str, Any]:
    """Tokens per second of every arm; what an arm says instead, if it does not run."""
    found: dict[str, Any] = {}
    tokens: dict[str, int] = {}
    able: dict[str, Callable[[], Any]] = {}
    for name, write in writers.items():
        try:
            tokens[name] = write()
        except (RuntimeError, ValueError, NotImplementedError, AttributeError) as error:
            found[name] = {"error": f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"}
        else:
            able[name] = write
    for name, seconds in time_in_turn(able, repeats).items():
        found[name] = {
            "tokens": tokens[name],
            "tokens_per_second": tokens[name] / seconds.median,
            "least": tokens[name] / seconds.most,
            "most": tokens[name] / seconds.least,
        }
    return {name: found[name] for name in writers}


def arms(model: Any, tokenizer: Any, prompts: Sequence[list[int]]) -> dict[str, Callable[[], int]]:
    """Ways to write `SAMPLES` samples of every prompt; each says how many tokens it wrote."""
    settings: dict[str, Any] = {"max_new_tokens": NEW, "temperature": 1.0, "batch_size": ROWS}
    copies = [prompt for prompt in prompts for _ in range(SAMPLES)]

    def ours(asked: Sequence[list[int]], **more: Any) -> int:
        return sum(len(one.ids) for one in generate(model, tokenizer, asked, **settings, **more))

    return {
        "model.generate, prompts repeated": lambda: plain(model, tokenizer, copies),
        "lit-align, prompts repeated": lambda: ours(copies),
        f"lit-align, samples={SAMPLES}": lambda: ours(prompts, samples=SAMPLES),
        f"lit-align, samples={SAMPLES}, with log-probabilities": lambda: ours(prompts, samples=SAMPLES, logps=True),
        "continuous batching": lambda: continuous(model, tokenizer, prompts),
    }


def sampling(model: Any, tokenizer: Any, **more: Any) -> GenerationConfig:
    """The same wishes in Hugging Face's words."""
    pad = tokenizer.eos_token_id if tokenizer.pad_token_id is None else tokenizer.pad_token_id
    return GenerationConfig(
        max_new_tokens=NEW, do_sample=True, temperature=1.0, top_k=0, top_p=1.0, pad_token_id=pad,
        eos_token_id=tokenizer.eos_token_id, **more,
    )  # fmt: skip


@torch.no_grad()
def plain(model: Any, tokenizer: Any, prompts: Sequence[list[int]]) -> int:
    """Hugging Face's `generate`, in batches as the prompts come."""
    torch.manual_seed(0)
    config, count = sampling(model, tokenizer), 0
    for start in range(0, len(prompts), ROWS):
        batch = prompts[start : start + ROWS]
        width = max(map(len, batch))
        ids = torch.tensor([[config.pad_token_id] * (width - len(one)) + one for one in batch])
        mask = torch.tensor([[0] * (width - len(one)) + [1] * len(one) for one in batch])
        output = model.generate(input_ids=ids, attention_mask=mask, generation_config=config)[:, width:]
        ends = (output == tokenizer.eos_token_id).int()
        # Up to the first end, with it.
        count += int((ends.cumsum(1) - ends == 0).sum())
    return count


@torch.no_grad()
def continuous(model: Any, tokenizer: Any, prompts: Sequence[list[int]]) -> int:
    """Continuous batching of transformers, which forks the samples of a prompt by itself."""
    torch.manual_seed(0)
    before = model.config._attn_implementation
    try:
        config = sampling(model, tokenizer, num_return_sequences=SAMPLES)
        # By itself it takes the machine's free memory for its cache and masks, and fills it.
        room = ContinuousBatchingConfig(
            page_size=32,
            num_blocks=ROWS * (max(map(len, prompts)) + NEW + 31) // 32 + ROWS,
            max_batch_tokens=512,
            max_requests_per_batch=ROWS,
            use_cuda_graph=False,
            use_async_batching=False,
            seed=0,
        )
        outputs = model.generate_batch(
            [list(one) for one in prompts], generation_config=config, continuous_batching_config=room, warmup=False
        )
    finally:
        model.set_attn_implementation(before)
    if len(outputs) != PROMPTS * SAMPLES:
        raise RuntimeError(f"{len(outputs)} of {PROMPTS * SAMPLES} completions came back")
    return sum(len(one.generated_tokens) for one in outputs.values())


def page(results: dict[str, Any]) -> str:
    """Results as markdown."""
    own = results["machine"]
    lines = [
        f"torch {own['torch']}, transformers {own['transformers']}, one thread on {own['processor']}, "
        f"{own['cores']} cores; load of the machine at the start {own['load']} (other work ran beside it). "
        f"{PROMPTS} prompts, {SAMPLES} samples of each, up to {NEW} tokens, batches of {ROWS} rows; tokens per second "
        "of CPU time, median [min-max] of three repeats in turn after a warm-up (`python benchmarks/rollouts.py`).",
        "",
        "Continuous batching is made for GPUs. Its room is set by hand here (as many rows, 512 tokens a step, no "
        "graphs): left alone, it takes a share of the CPU's free memory and fills it first.",
        "",
    ]
    for name, found in results["models"].items():
        rows = []
        kinds = [kind for kind in found if kind != "parameters"]
        for arm in found[kinds[0]]:
            rows.append([arm, *(_cell(found[kind][arm], found[kind]) for kind in kinds)])
        header = ["arm", *(f"{kind} ({LENGTHS[kind][0]}-{LENGTHS[kind][1]} tokens)" for kind in kinds)]
        lines.append(table(f"{name}, {found['parameters'] / 1e6:.2f} million parameters", header, rows))
    return "\n".join(lines).rstrip() + "\n"


def _cell(speed: dict[str, Any], arms_of_kind: dict[str, Any]) -> str:
    if "error" in speed:
        return f"does not run: {speed['error']}"
    base = next(iter(arms_of_kind.values()))["tokens_per_second"]
    spread = f"[{speed['least']:.0f}-{speed['most']:.0f}]"
    return f"{speed['tokens_per_second']:.0f} {spread}, x {speed['tokens_per_second'] / base:.2f}"


if __name__ == "__main__":
    main()
