"""A preference model that reads both responses, as a judge."""

from __future__ import annotations

import pytest
import torch
from transformers import AutoModelForSequenceClassification

from lit_align.core.errors import ConfigError
from lit_align.data.comparison import render_comparison
from lit_align.judges import PairModelJudge
from tests.helpers import build_tiny_tokenizer

PROMPTS, FIRSTS, SECONDS = ["say red ", "b", "c"], ["red it is", "c", "same"], ["no", "\u00fc e f", "same"]


def chances(judge, firsts=FIRSTS, seconds=SECONDS):
    return [verdict.probability for verdict in judge.compare(PROMPTS, firsts, seconds)]


def logit(folder, *parts):
    """Of the plain model, on the text that the data side renders."""
    tokenizer = build_tiny_tokenizer()
    model = AutoModelForSequenceClassification.from_pretrained(folder, dtype=torch.float64).eval()
    ids = [*tokenizer(render_comparison(*parts))["input_ids"], tokenizer.eos_token_id]
    with torch.no_grad():
        return model(input_ids=torch.tensor([ids])).logits[0, 0]


@pytest.mark.parametrize("how", ["antisymmetric", "mean"])
def test_both_orders_are_read(reward_dir, how):
    judged = chances(PairModelJudge(reward_dir, how, dtype="float64", batch_size=1))
    for number in (0, 1):
        own, other = FIRSTS[number], SECONDS[number]
        first, second = (logit(reward_dir, PROMPTS[number], *pair) for pair in ((own, other), (other, own)))
        expected = (
            ((first - second) / 2).sigmoid() if how == "antisymmetric" else (first.sigmoid() + 1 - second.sigmoid()) / 2
        )
        assert judged[number] == pytest.approx(expected.item(), abs=1e-9)
    assert judged[2] == 0.5
    assert abs(judged[0] - 0.5) > 1e-3


def test_exchanging_the_responses_exchanges_the_verdict(reward_dir):
    judge = PairModelJudge(reward_dir, dtype="float64")
    there, back = chances(judge), chances(judge, SECONDS, FIRSTS)
    assert [a + b for a, b in zip(there, back, strict=True)] == pytest.approx([1.0] * 3)
    assert judge.facts()["mean_order_gap"] > 0


def test_conversations(reward_dir):
    prompts = [[{"role": "user", "content": prompt}] for prompt in PROMPTS]
    verdicts = PairModelJudge(reward_dir).compare(prompts, FIRSTS, SECONDS)
    assert all(verdict.probability is not None for verdict in verdicts)


def test_only_identical_pairs(reward_dir):
    assert [v.probability for v in PairModelJudge(reward_dir).compare(["p"], ["a"], ["a"])] == [0.5]


def test_a_model_without_a_head(tiny_model_dir):
    with pytest.raises(ConfigError, match="no head that scores"):
        chances(PairModelJudge(tiny_model_dir))
