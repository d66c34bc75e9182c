"""Seeds: numbers worked out elsewhere, the same in another process, and orders that depend on the key alone."""

from __future__ import annotations

import os
import subprocess
import sys

import torch

from lit_align.loops.seeds import canonical, prompt_id, sample_seed, seed_of, shuffled


def test_the_seed_of_the_specification():
    assert sample_seed("run", 0, 7, 1) == 2858859618422058449


def test_each_part_of_a_seed_counts():
    base = (3, 1, "0a1b", 2)
    others = [(4, 1, "0a1b", 2), (3, 2, "0a1b", 2), (3, 1, "0a1c", 2), (3, 1, "0a1b", 3)]
    seeds = [sample_seed(*base), sample_seed(*base, "judge"), *(sample_seed(*other) for other in others)]
    assert len(set(seeds)) == len(seeds)


def test_generators_of_torch_take_all_seeds():
    seeds = [seed_of("x", number) for number in range(2000)]
    assert min(seeds) >= 0
    assert max(seeds) < 2**63
    assert max(seeds) > 2**62, "all bits are used"
    assert torch.Generator().manual_seed(max(seeds)).initial_seed() == max(seeds)


def test_a_prompts_name_is_that_of_its_content():
    messages = [{"role": "user", "content": "Hi \ud83d"}]
    turned = [{"content": "Hi \ud83d", "role": "user"}]
    assert prompt_id(messages) == prompt_id(turned)
    assert len({prompt_id(messages), prompt_id("Hi \ud83d"), prompt_id("Hi")}) == 3
    assert prompt_id("Hi") == "fc285a8ec32ebfc1", 'b2sum -l 64 of "Hi" with its quotes'
    assert canonical({"b": 1, "a": "\u00e9"}) == '{"a":"\\u00e9","b":1}'


def test_an_order_is_that_of_its_key():
    items = list(range(100))
    assert shuffled(items, 1, "prompts") == shuffled(tuple(items), 1, "prompts") != shuffled(items, 2, "prompts")
    assert sorted(shuffled(items, 1)) == items
    assert items == list(range(100))
    assert shuffled([], 1) == []


def test_another_process_draws_the_same():
    code = "from lit_align.loops.seeds import *; print(shuffled('abcdefgh', 'key', 1), prompt_id(['é']))"
    environment = {**os.environ, "PYTHONHASHSEED": "77"}
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, env=environment)
    assert out.stdout.strip() == f"{shuffled('abcdefgh', 'key', 1)} {prompt_id(['é'])}"
