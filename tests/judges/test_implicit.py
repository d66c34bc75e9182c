"""The implicit reward of a policy as a judge."""

from __future__ import annotations

import json

import pytest

import lit_align
from lit_align import Trainer
from lit_align.core.errors import ConfigError
from lit_align.core.forward import Scorer
from lit_align.judges import ImplicitReward
from tests.helpers import build_tiny_tokenizer, save_tiny_model, tiny_model

PROMPTS, RESPONSES = ["say red ", "b"], ["red it is", "c"]


@pytest.fixture(scope="module")
def models(tmp_path_factory) -> tuple[str, str]:
    """A policy and its reference."""
    folder = tmp_path_factory.mktemp("models")
    return save_tiny_model(folder / "policy", seed=1), save_tiny_model(folder / "reference", seed=2)


def scores(judge):
    return [judged.score for judged in judge.score(PROMPTS, RESPONSES)]


def test_it_is_the_reward_of_dpo(models, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("LIT_ALIGN_CACHE", str(tmp_path / "cache"))
    rows = [{"prompt": p, "completion": r} for p, r in zip(PROMPTS, RESPONSES, strict=True)]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    trainer = Trainer(accelerator="cpu", enable_progress_bar=False, enable_model_summary=False, logger=False)
    method = lit_align.DPO(policy=models[0], reference=models[1], beta=0.3, dtype="float64")
    records = trainer.score(method, lit_align.PreferenceDataModule(predict="rows.jsonl"))
    judged = scores(ImplicitReward(*models, beta=0.3, dtype="float64"))
    assert judged == pytest.approx([record["reward"] for record in records], abs=1e-8)
    assert abs(judged[0]) > 0.01


def test_per_token_and_with_a_price_of_length(models):
    plain, mean, priced = (
        scores(ImplicitReward(*models, dtype="float64", **settings))
        for settings in ({}, {"per_token": True}, {"length_price": 0.5})
    )
    lengths = [len(response) + 1 for response in RESPONSES]
    assert mean == pytest.approx([score / length for score, length in zip(plain, lengths, strict=True)])
    assert priced == pytest.approx([score - 0.5 * length for score, length in zip(plain, lengths, strict=True)])


def test_of_models_that_are_there_already(models):
    live = [Scorer(tiny_model(seed)) for seed in (1, 2)]
    judge = ImplicitReward.of(*live, build_tiny_tokenizer(), models[0], beta=0.3)
    assert scores(judge) == pytest.approx(scores(ImplicitReward(*models, beta=0.3)), abs=1e-6)


def test_a_policy_against_itself_has_no_reward(models):
    assert scores(ImplicitReward(models[0], models[0])) == [0.0, 0.0]


def test_the_two_must_read_the_same_tokens(models, tmp_path):
    other = build_tiny_tokenizer()
    other.add_tokens(["another"])
    folder = save_tiny_model(tmp_path / "other")
    other.save_pretrained(folder)
    with pytest.raises(ConfigError, match="the same tokens"):
        scores(ImplicitReward(models[0], folder))
