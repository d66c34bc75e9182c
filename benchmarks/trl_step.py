"""One system's DPO training step on given lengths: `python benchmarks/trl_step.py SYSTEM PROMPT RESPONSE REPEATS`.

Prints one JSON object: median CPU seconds of a step, peak memory over the start, and the first loss, which must agree
between systems. Run by `step.py`, one process per system. Needs the `bench` extra (TRL).
"""

from __future__ import annotations

import json
import os
import sys
import tempfile
import time
from collections.abc import Callable
from statistics import median

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ["OMP_NUM_THREADS"] = "1"

import random

import torch
from step import VOCABULARY, Step, build_model, pair

from lit_align.core.batch import Example, Layout
from lit_align.core.layout import build_rows
from lit_align.core.outputs import PairLogps
from lit_align.methods.dpo import dpo_loss


def ours(examples: list[Example], layout: Layout) -> Callable[[], float]:
    """A step of this library's core."""
    step = Step()
    # A reference of other weights, so that the first loss is not log 2 whatever is computed.
    step.reference.model.load_state_dict(build_model(seed=1).state_dict())
    rows = build_rows(examples, layout)

    def run() -> float:
        with torch.no_grad():
            reference = step.reference.sequence_logps(rows)
        policy = step.policy.sequence_logps(rows)
        halves = [PairLogps(s.sums[0::2], s.sums[1::2], s.lengths[0::2], s.lengths[1::2]) for s in (policy, reference)]
        loss = dpo_loss(*halves, beta=0.1).mean()
        loss.backward()
        step.policy.zero_grad(set_to_none=True)
        return loss.item()

    return run


def trl(examples: list[Example], checkpointing: bool) -> Callable[[], float]:
    """A `training_step` of TRL's DPOTrainer on the same token ids."""
    from datasets import Dataset
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast
    from trl import DPOConfig, DPOTrainer

    vocabulary = {"<pad>": 0, "<s>": 1, "</s>": 2, **{f"w{i}": i for i in range(3, VOCABULARY)}}
    words = Tokenizer(models.WordLevel(vocabulary, unk_token="<pad>"))
    words.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=words, pad_token="<pad>", bos_token="<s>", eos_token="</s>")

    def text(ids: list[int]) -> str:
        return " " + " ".join(f"w{i}" for i in ids)

    rows = []
    for example in examples:
        start = example.prompt_lengths[0]
        chosen, rejected = (ids[start:-1] for ids in example.ids)
        rows.append({"prompt": text(example.ids[0][:start]), "chosen": text(chosen), "rejected": text(rejected)})
    folder = tempfile.mkdtemp()
    policy, reference = build_model(), build_model(seed=1)
    for model in (policy, reference):
        model.config._name_or_path = folder
    trainer = DPOTrainer(
        model=policy,
        ref_model=reference,
        args=DPOConfig(
            output_dir=folder,
            per_device_train_batch_size=len(examples),
            report_to=[],
            use_cpu=True,
            bf16=False,
            gradient_checkpointing=checkpointing,
            max_length=8192,
            disable_tqdm=True,
            beta=0.1,
        ),
        train_dataset=Dataset.from_list(rows),
        processing_class=tokenizer,
    )
    # What `train` sets before it calls `training_step`.
    trainer.current_gradient_accumulation_steps = 1
    batch = next(iter(trainer.get_train_dataloader()))

    def run() -> float:
        loss = trainer.training_step(policy, dict(batch))
        policy.zero_grad(set_to_none=True)
        return loss.item()

    return run


def main() -> None:
    """Measure one system."""
    from measure import peak_of

    system, prompt, response, repeats = sys.argv[1], *map(int, sys.argv[2:5])
    torch.set_num_threads(1)
    draw = random.Random(0)
    examples = [pair(prompt, response, response, draw) for _ in range(2)]
    for example in examples:
        for ids in example.ids:
            ids[-1] = 2  # TRL ends every response with EOS
    run = {
        "trl-default": lambda: trl(examples, checkpointing=True),
        "trl-no-checkpointing": lambda: trl(examples, checkpointing=False),
        "ours-padded": lambda: ours(examples, Layout.PADDED),
        "ours-shared": lambda: ours(examples, Layout.SHARED),
    }[system]()
    loss = run()
    memory = peak_of(run)
    seconds = []
    for _ in range(repeats):
        started = time.process_time()
        run()
        seconds.append(time.process_time() - started)
    print(json.dumps({"seconds": median(seconds), "MiB": memory, "loss": loss}))


if __name__ == "__main__":
    main()
