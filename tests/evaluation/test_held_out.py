"""What `lit-align compare` measures of a policy."""

from __future__ import annotations

import json

import pytest
import torch
from lightning.pytorch.plugins import Precision
from transformers import AutoModelForCausalLM

from lit_align.core.batch import Example
from lit_align.core.forward import Scorer
from lit_align.core.policy import build_policy
from lit_align.core.policy_spec import PolicySpec
from lit_align.data.module import PreferenceDataModule
from lit_align.evaluation.held_out import METRICS, Asking, columns_of, first_prompts, measure_policy


def measured(chosen, rejected, tokens=(), finished=None, lengths=(2, 4)):
    count = len(chosen)
    return {
        "pairs": {
            "chosen_logps": chosen,
            "rejected_logps": rejected,
            "chosen_tokens": [lengths[0]] * count,
            "rejected_tokens": [lengths[1]] * count,
        },
        "replies": [
            {"prompt": "p", "text": "t", "tokens": number, "finished": done}
            for number, done in zip(tokens, finished or [True] * len(tokens), strict=True)
        ],
        "left_out": 0,
    }


def test_columns_by_hand():
    before = measured([-4.0, -6.0, -5.0], [-4.0, -5.0, -8.0], tokens=(3, 5))
    after = measured([-3.0, -7.0, -5.0], [-4.0, -9.0, -9.0], tokens=(8, 5), finished=[False, True])
    columns = columns_of(after, before)
    assert columns == {
        "accuracy": [1, 1, 1],
        # Per token -1.5, -3.5, -2.5 against -1, -2.25, -2.25.
        "accuracy_per_token": [0, 0, 0],
        "reward_accuracy": [1, 1, 1],
        # Gains per token 0.5, -0.5, 0 against 0, -1, -0.25.
        "reward_accuracy_per_token": [1, 1, 1],
        "margin": [1, 3, 1],
        "chosen_gain": [1, -1, 0],
        "rejected_gain": [0, -4, -1],
        "chosen_fell": [0, 1, 0],
        "reply_tokens": [8, 5],
        "length_drift": [5, 0],
        "unfinished": [1, 0],
    }
    assert {*columns} == {metric.key for metric in METRICS if metric.of in ("pairs", "prompts")}


def test_nothing_is_right_that_is_only_equal():
    same = measured([-4.0], [-4.0], lengths=(3, 3))
    columns = columns_of(same, same)
    assert [columns[key] for key in ("accuracy", "reward_accuracy", "chosen_fell")] == [[0], [0], [0]]


def test_first_prompts_are_different_and_leave_room():
    prompts = ([1, 2], [1, 2], [3] * 9, [3] * 9, [4], [5])
    examples = [Example(row=n, ids=[[*prompt, 7]], prompt_lengths=[len(prompt)]) for n, prompt in enumerate(prompts)]
    assert first_prompts(examples, 2, None) == ([[1, 2], [3] * 9], 0)
    assert first_prompts(examples, 2, 8) == ([[1, 2], [4]], 1)
    assert first_prompts(examples, 9, 8) == ([[1, 2], [4], [5]], 1)
    assert first_prompts(examples, 0, None) == ([], 0)


@torch.no_grad()
def test_a_policy_is_measured_as_it_is(tiny_model_dir, tmp_path):
    file = tmp_path / "pairs.jsonl"
    rows = [
        {"prompt": f"say {w} ", "responses": [w, "no", w + w], "scores": [2, 1, 0]} for w in ("red", "green", "blue")
    ]
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    data = PreferenceDataModule(
        validation=str(file), convert="best_worst", tokenizer=tiny_model_dir, cache_dir=str(tmp_path / "cache")
    )
    scorer = Scorer(build_policy(PolicySpec(name=tiny_model_dir)))
    found = measure_policy(scorer, data, Asking(2, 5, 0.0), Precision(), batch_size=2)
    assert json.loads(json.dumps(found)) == found
    assert len(found["pairs"]["chosen_logps"]) == 3
    assert [reply["prompt"] for reply in found["replies"]] == ["say red ", "say green "]
    assert all(1 <= reply["tokens"] <= 5 for reply in found["replies"])

    model = AutoModelForCausalLM.from_pretrained(tiny_model_dir)
    tokenizer = data.tokenizer
    for index, row in enumerate(rows):
        prompt = tokenizer(row["prompt"]).input_ids
        for side, place in (("chosen", 0), ("rejected", 2)):
            ids = [*prompt, *tokenizer(row["responses"][place], add_special_tokens=False).input_ids, 2]
            start = len(prompt)
            assert found["pairs"][f"{side}_tokens"][index] == len(ids) - start
            logps = model(torch.tensor([ids])).logits[0, start - 1 : -1].log_softmax(-1)
            expected = logps.gather(-1, torch.tensor(ids[start:])[:, None]).sum()
            assert found["pairs"][f"{side}_logps"][index] == pytest.approx(expected.item(), abs=1e-3)


def test_replies_are_those_of_the_seed(tiny_model_dir, tmp_path):
    file = tmp_path / "pairs.jsonl"
    file.write_text('{"prompt": "say red ", "chosen": "red", "rejected": "no"}\n')
    data = PreferenceDataModule(validation=str(file), tokenizer=tiny_model_dir, cache_dir=str(tmp_path / "cache"))
    scorer = Scorer(build_policy(PolicySpec(name=tiny_model_dir)))

    def reply(seed):
        return measure_policy(scorer, data, Asking(1, 12, 1.0, seed), Precision(), 2)["replies"][0]["text"]

    assert reply(0) == reply(0) != reply(1)
