"""Loops in two processes: the same rounds as in one, each part made by one of them."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest
import torch

from lit_align.callbacks import SPIN, LoRA, SampledPairs
from lit_align.rollouts import hf_engine
from tests.callbacks.judged import Likes
from tests.distributed.jobs import whole_weights
from tests.launch import launch
from tests.loops.loop_runs import dpo, rows, run_loop, write_demonstrations


def _loop(folder: Path, model: str, seed_file: str, strategy: str, batch_size: int, lora: bool) -> Any:
    """Two rounds; what the process was asked to write, and the weights that it ends with."""
    asked: list[int] = []
    generate = hf_engine.HFEngine.generate

    def counting(self: Any, prompts: Any, **settings: Any) -> Any:
        asked.append(len(prompts))
        return generate(self, prompts, **settings)

    hf_engine.HFEngine.generate = counting  # type: ignore[method-assign]
    spin = SPIN(rounds=2, max_new_tokens=8, batch_size=4, keep_unfinished=True, stop_on_alarm=False)
    adapters = [LoRA(r=2)] if lora else []
    module = run_loop(
        folder,
        dpo(model),
        seed_file,
        spin,
        *adapters,
        strategy=strategy,
        devices=int(os.environ["WORLD_SIZE"]),
        data={"batch_size": batch_size},
    )
    return sum(asked), whole_weights(module)


@pytest.mark.parametrize(("strategy", "lora"), [("ddp", False), ("fsdp2", False), ("ddp", True)])
def test_two_processes_make_the_rounds_of_one(strategy, lora, tiny_model_dir, tmp_path):
    seed_file = write_demonstrations(tmp_path)
    one, two = tmp_path / "one", tmp_path / "two"
    ((asked, weights),) = launch(_loop, one, tiny_model_dir, seed_file, "auto", 4, lora, world=1)
    (asked_0, weights_two), (asked_1, _) = launch(_loop, two, tiny_model_dir, seed_file, strategy, 2, lora)
    # Ten prompts in batches of four, four and two, twice; every prompt is asked once.
    assert (asked, asked_0, asked_1) == (20, 12, 8)
    for number in (1, 2):
        for step in ("prompts", "candidates", "pairs", "train"):
            assert rows(two, number, step) == rows(one, number, step), (number, step)
    # Adapters begin with random numbers, of which two processes draw others.
    for name, weight in weights.items() if not lora else ():
        torch.testing.assert_close(
            weights_two[name], weight, rtol=0, atol=1e-5, msg=lambda text, name=name: f"{name}: {text}"
        )
    # The second round was made by other weights than the first.
    first, second = (json.loads((two / "rounds" / f"round_{n}" / "manifest.json").read_text()) for n in (1, 2))
    assert first["policy"] != second["policy"]


def _sampled(folder: Path, model: str, seed_file: str, strategy: str, batch_size: int, sampler: Any) -> None:
    """Two rounds of answers in which the reference has a say."""
    loop = SampledPairs(
        Likes(), sampler, rounds=2, max_new_tokens=6, batch_size=8, missing_eos_penalty=0.0, stop_on_alarm=False
    )
    devices = int(os.environ["WORLD_SIZE"])
    run_loop(folder, dpo(model), seed_file, loop, strategy=strategy, devices=devices, data={"batch_size": batch_size})


@pytest.mark.parametrize("sampler", ["reference", "mix_p"])
def test_a_reference_that_is_sharded_writes_though_processes_have_unlike_numbers_of_parts(
    sampler, tiny_model_dir, tmp_path
):
    seed_file = write_demonstrations(tmp_path)
    one, two = tmp_path / "one", tmp_path / "two"
    launch(_sampled, one, tiny_model_dir, seed_file, "auto", 4, sampler, world=1)
    launch(_sampled, two, tiny_model_dir, seed_file, "fsdp2", 2, sampler)
    for number in (1, 2):
        assert rows(two, number, "candidates") == rows(one, number, "candidates")
