"""Two models on the same held-out data: what is measured, and how it is put together."""

from __future__ import annotations

import json

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from lit_align.evaluation.comparison import Measurement, compare, measure
from lit_align.rollouts.hf import Completion


def _completion(text, finished=True):
    return Completion(prompt="", text=text, ids=list(range(len(text.split()))), finished=finished)


def _measurement(margins, texts):
    pairs = [
        {"chosen_logps": -1.0 + m, "rejected_logps": -1.0, "chosen_tokens": 3, "rejected_tokens": 4} for m in margins
    ]
    return Measurement(pairs, greedy=texts, sampled=texts[::-1])


@pytest.fixture
def result():
    before = _measurement([-1.0, 1.0, 0.0, -2.0], [_completion("no"), _completion("yes")])
    after = _measurement([1.0, 2.0, 3.0, -1.0], [_completion("yes yes"), _completion("yes", finished=False)])
    return compare(
        before,
        after,
        ["one", "two"],
        labels=("old", "new"),
        preferred=lambda prompt, text: text.startswith("yes"),
        right=lambda prompt, text: prompt == "one",
    )


def test_headline_numbers_are_those_of_the_measurements(result):
    numbers = {line["name"]: (line["before"], line["after"]) for line in result["headline"]}
    assert numbers == {
        "preference accuracy": (0.25, 0.75),
        "preference margin": (-0.5, 1.25),
        # The reply that did not come to an end does not count.
        "preferred behaviour, greedy": (0.5, 0.5),
        "preferred behaviour, sampled": (0.5, 0.5),
        "right answers, greedy": (0.5, 0.5),
    }


def test_completions_stand_side_by_side(result):
    assert result["completions"] == [
        {"prompt": "one", "texts": ["no", "yes yes"], "accepted": [False, True]},
        {"prompt": "two", "texts": ["yes", "yes"], "accepted": [True, False]},
    ]


def test_histograms_have_one_series_per_model(result):
    margins, lengths, pairs = (histogram["series"] for histogram in result["histograms"])
    assert margins == {"old": [-1.0, 1.0, 0.0, -2.0], "new": [1.0, 2.0, 3.0, -1.0]}
    assert lengths == {"old": [1, 1], "new": [2, 1]}
    assert pairs == {"chosen": [3] * 4, "rejected": [4] * 4}


def test_the_result_is_json(result):
    assert json.loads(json.dumps(result)) == result


@torch.no_grad()
def test_a_model_is_measured_as_it_is(tiny_model_dir, tmp_path):
    """Scores are the plain model's log-probabilities, and greedy completions its own."""
    file = tmp_path / "pairs.jsonl"
    rows = [
        {
            "prompt": [{"role": "user", "content": f"Say {word}."}],
            "chosen": [{"role": "assistant", "content": word}],
            "rejected": [{"role": "assistant", "content": word[::-1]}],
        }
        for word in ("yes", "never", "tomorrow")
    ]
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    prompts = [row["prompt"][0]["content"] for row in rows]
    found = measure(tiny_model_dir, file, prompts, cache_dir=tmp_path / "cache", max_new_tokens=5)

    model = AutoModelForCausalLM.from_pretrained(tiny_model_dir)
    tokenizer = AutoTokenizer.from_pretrained(tiny_model_dir)
    for row, pair, completion in zip(rows, found.pairs, found.greedy, strict=True):
        head = tokenizer.apply_chat_template(row["prompt"], add_generation_prompt=True, return_dict=False)
        for side in ("chosen", "rejected"):
            ids = [
                *head,
                *tokenizer(row[side][0]["content"], add_special_tokens=False).input_ids,
                tokenizer.eos_token_id,
            ]
            logps = model(torch.tensor([ids])).logits[0, len(head) - 1 : -1].log_softmax(-1)
            expected = logps.gather(-1, torch.tensor(ids[len(head) :])[:, None]).sum()
            assert pair[f"{side}_logps"] == pytest.approx(expected.item(), abs=1e-3)
            assert pair[f"{side}_tokens"] == len(ids) - len(head)
        assert completion.ids[0] == model(torch.tensor([head])).logits[0, -1].argmax()
    assert found.margins == [pair["chosen_logps"] - pair["rejected_logps"] for pair in found.pairs]
    assert len(found.sampled) == len(prompts)
