"""Context distillation: the teacher reads the context, the policy does not."""

from __future__ import annotations

import json
from functools import partial

import pytest
import torch

from lit_align.callbacks import ContextDistilled
from lit_align.core.errors import ConfigError, DataError
from lit_align.loops.seeds import sample_seed
from lit_align.methods.context_distillation import ContextDistillation
from lit_align.rollouts.hf_engine import HFEngine
from tests.callbacks.judged import LOOP, check_interrupted, watch_precision, write_prompts
from tests.loops.loop_runs import dpo, rows, run_loop

SETTINGS = {name: value for name, value in LOOP.items() if name != "missing_eos_penalty"}
RULES = "Say it in red. "


def loop(**settings) -> ContextDistilled:
    return ContextDistilled(**(SETTINGS | {"context": RULES, "samples": 2, "rounds": 1} | settings))


def method(model, **settings) -> ContextDistillation:
    optimizer = partial(torch.optim.SGD, lr=0.05)
    return ContextDistillation(policy=model, optimizer=optimizer, warmup_ratio=0.0, **settings)


@pytest.fixture(scope="module")
def seed_file(tmp_path_factory) -> str:
    return write_prompts(tmp_path_factory.mktemp("seed"))


def written(model, prompts, seeds):
    engine = HFEngine(model, batch_size=4)
    return [one.text for one in engine.generate(prompts, samples=2, seed=seeds, temperature=1.0, max_new_tokens=8)]


def test_the_frozen_initial_model_writes_after_the_context_in_every_round(tiny_model_dir, seed_file, tmp_path):
    run_loop(tmp_path, method(tiny_model_dir), seed_file, loop(rounds=2))
    for number in (1, 2):
        prompts = [f"{RULES}Name {place}." for place in range(6)]
        seeds = [sample_seed(0, number, str(place + 1), k) for place in range(6) for k in range(2)]
        expected = [text.strip() for text in written(tiny_model_dir, prompts, seeds)]
        own = rows(tmp_path, number, "candidates")
        assert [row["completion"].strip() for row in own] == expected
        assert not any("ids" in row for row in own if row["finished"] and row["completion"].isascii())
        for row in rows(tmp_path, number, "train"):
            assert row["context"] == RULES
            assert RULES not in row["prompt"]


def test_the_teacher_writes_in_the_precision_of_training(tiny_model_dir, seed_file, tmp_path, monkeypatch):
    seen = watch_precision(monkeypatch, "generate")
    run_loop(tmp_path, method(tiny_model_dir), seed_file, loop(), precision="bf16-mixed")
    assert seen
    assert all(seen)


def test_the_first_loss_is_the_divergence_from_the_teacher(tiny_model_dir, seed_file, tmp_path):
    """Above 0 with a context; with none that changes anything it would be 0."""
    run_loop(tmp_path, method(tiny_model_dir), seed_file, loop())
    records = [json.loads(line) for line in (tmp_path / "metrics.jsonl").open()]
    assert next(record["loss"] for record in records if "loss" in record) > 1e-4


def test_conversations_have_the_context_as_a_system_turn(tiny_model_dir, tmp_path):
    path = tmp_path / "chats.jsonl"
    asked = [[{"role": "user", "content": f"Name {n}."}] for n in range(4)]
    path.write_text("".join(json.dumps({"prompt": prompt}) + "\n" for prompt in asked))
    run_loop(tmp_path, method(tiny_model_dir), str(path), loop())
    prompts = [[{"role": "system", "content": RULES}, *prompt] for prompt in asked]
    seeds = [sample_seed(0, 1, str(place + 1), k) for place in range(4) for k in range(2)]
    expected = [text.strip() for text in written(tiny_model_dir, prompts, seeds)]
    assert [row["completion"].strip() for row in rows(tmp_path, 1, "candidates")] == expected
    assert [row["prompt"] for row in rows(tmp_path, 1, "train")][::2] == asked


def test_contexts_may_be_the_datas(tiny_model_dir, tmp_path):
    path = tmp_path / "own.jsonl"
    own = [{"prompt": f"Name {n}.", "context": f"Rule {n}. "} for n in range(4)]
    path.write_text("".join(json.dumps(row) + "\n" for row in own))
    run_loop(tmp_path, method(tiny_model_dir), str(path), loop(context=None))
    assert [row["context"] for row in rows(tmp_path, 1, "train")][::2] == [row["context"] for row in own]


def test_prompts_whose_context_would_be_cut_are_left_out_and_counted(tiny_model_dir, tmp_path):
    path = tmp_path / "long.jsonl"
    own = [{"prompt": f"Name {n}.", "context": "Rule. " * (40 if n == 1 else 1)} for n in range(4)]
    path.write_text("".join(json.dumps(row) + "\n" for row in own))
    run_loop(tmp_path, method(tiny_model_dir), str(path), loop(context=None))
    assert len(rows(tmp_path, 1, "train")) == 6
    manifest = json.loads((tmp_path / "rounds" / "round_1" / "manifest.json").read_text())
    assert list(manifest["steps"]["prompts_with_context"]["left_out"].values()) == [1]


def test_a_prompt_without_a_context_is_an_error(tiny_model_dir, seed_file, tmp_path):
    with pytest.raises(DataError, match="a prompt has no context"):
        run_loop(tmp_path, method(tiny_model_dir), seed_file, loop(context=None))


def test_prompts_are_written_to_by_their_length_with_the_context_and_named_by_their_row(
    tiny_model_dir, tmp_path, monkeypatch
):
    contexts = ["Red. ", "Say it in a small red way. ", "Say it. ", "As small as can be, say it. "]
    lines = [{"prompt": f"Name{'.' * (4 - n)}", "context": context} for n, context in enumerate(contexts)]
    file = tmp_path / "rows.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in lines))
    asked, generate = [], HFEngine.generate

    def watched(engine, prompts, **settings):
        asked.extend(len(ids) for ids in prompts)
        return generate(engine, prompts, **settings)

    monkeypatch.setattr(HFEngine, "generate", watched)
    run_loop(tmp_path, method(tiny_model_dir), str(file), loop(context=None, batch_size=2, part_size=64))
    assert asked == sorted(asked, reverse=True)
    assert [row["id"] for row in rows(tmp_path, 1, "candidates")] == ["1", "1", "2", "2", "3", "3", "4", "4"]
    strict = {"max_length": 32, "on_overlong": "error"}
    with pytest.raises(DataError, match=r"prompt [24]: .*\n.*row [24]"):
        run_loop(tmp_path / "strict", method(tiny_model_dir), str(file), loop(context=None), data=strict)


@pytest.mark.parametrize(
    ("setting", "what"),
    [
        ({"reference": "previous"}, "frozen reference"),
        ({"engine": object()}, "frozen reference"),
        ({"context": ""}, "a context of"),
        ({"samples": 0}, "samples"),
    ],
)
def test_settings_without_a_teacher_are_refused(setting, what):
    with pytest.raises(ConfigError, match=what):
        loop(**setting)


def test_methods_that_learn_from_pairs_are_refused(tiny_model_dir, seed_file, tmp_path):
    with pytest.raises(ConfigError, match="ContextDistilled makes"):
        run_loop(tmp_path, dpo(tiny_model_dir), seed_file, loop())


def test_it_survives_being_ended_anywhere(tiny_model_dir, seed_file, tmp_path):
    check_interrupted(tmp_path, lambda: (method(tiny_model_dir), loop(rounds=2)), seed_file)
