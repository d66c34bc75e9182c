"""What a line of `lit-align score` says, beyond what `tests/test_trainer.py` reads in it."""

from __future__ import annotations

import json

import pytest

import lit_align
from lit_align import Trainer
from lit_align.__main__ import main
from lit_align.core.errors import ConfigError
from tests.methods.scoring import move


@pytest.fixture
def pairs(tmp_path, monkeypatch) -> str:
    """A file with two pairs, in the working directory."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("LIT_ALIGN_CACHE", str(tmp_path / "cache"))
    rows = [
        {"prompt": "say red ", "chosen": "red \u00fc it is", "rejected": "no"},
        {"prompt": "b", "chosen": "c d", "rejected": "e"},
    ]
    (tmp_path / "pairs.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return "pairs.jsonl"


def score(model, file: str, **settings) -> list[dict]:
    """The records of a file."""
    data = lit_align.PreferenceDataModule(predict=file)
    trainer = Trainer(accelerator="cpu", enable_progress_bar=False, enable_model_summary=False, logger=False)
    return trainer.score(model, data, **settings)


class TestTokenRewards:
    @pytest.mark.parametrize(("name", "beta"), [("DPO", 0.5), ("KTO", 0.3), ("InfoNCA", 0.1)])
    def test_they_add_up_to_the_reward_of_the_response(self, name, beta, pairs, tiny_model_dir, tmp_path):
        model = getattr(lit_align, name)(policy=tiny_model_dir, beta=beta, dtype="float64")
        built = model.configure_model

        def build_and_move() -> None:
            fresh = not hasattr(model, "policy")
            built()
            if fresh:
                move(model.policy)

        model.configure_model = build_and_move
        records = score(model, pairs, tokens=True)
        for record in records:
            assert len(record["token_rewards"]) == len(record["token_texts"]) == record["tokens"]
            assert sum(record["token_rewards"]) == pytest.approx(record["reward"], abs=1e-9)
            assert abs(record["reward"]) > 1e-4

    def test_each_has_the_text_of_its_token(self, pairs, tiny_model_dir):
        records = score(lit_align.DPO(policy=tiny_model_dir), pairs, tokens=True)
        assert ["".join(record["token_texts"]) for record in records[1:]] == ["no</s>", "c d</s>", "e</s>"]
        assert [record["completion"] for record in records[1:]] == ["no</s>", "c d</s>", "e</s>"]

    def test_what_the_user_says_in_between_has_none(self, tiny_model_dir, pairs, tmp_path):
        turns = [{"role": role, "content": role[:4]} for role in ("user", "assistant", "user", "assistant")]
        (tmp_path / "turns.jsonl").write_text(json.dumps({"messages": turns}) + "\n")
        (record,) = score(lit_align.DPO(policy=tiny_model_dir), "turns.jsonl", tokens=True)
        assert "".join(record["token_texts"]).count("assi") == 2
        assert "user" not in "".join(record["token_texts"])
        assert "user" in record["completion"]

    def test_they_are_left_out_unless_asked_for(self, pairs, tiny_model_dir):
        assert not any("token_rewards" in record for record in score(lit_align.DPO(policy=tiny_model_dir), pairs))

    @pytest.mark.parametrize(
        ("name", "settings", "what"),
        [
            ("DPO", {"reference": "precomputed"}, "Precomputed, which knows sums"),
            ("SimPO", {}, "SimPO, which compares with no reference"),
            ("BradleyTerry", {}, "which scores whole responses"),
        ],
    )
    def test_where_they_cannot_be_known(self, name, settings, what, pairs, tiny_model_dir):
        with pytest.raises(ConfigError, match=rf"no rewards of single tokens(?s:.*){what}(?s:.*)fix: use a method"):
            score(getattr(lit_align, name)(policy=tiny_model_dir, **settings), pairs, tokens=True)

    def test_from_the_command_line(self, pairs, tiny_model_dir, tmp_path):
        arguments = [
            "--model",
            "DPO",
            "--model.policy",
            tiny_model_dir,
            "--data.predict",
            pairs,
            "--out",
            "scores.jsonl",
        ]
        assert main(["score", *arguments, "--tokens", "true", "--trainer.accelerator", "cpu"]) == 0
        (first, *_) = [json.loads(line) for line in (tmp_path / "scores.jsonl").read_text().splitlines()]
        assert first["token_rewards"] == [0.0] * first["tokens"]


def test_a_list_method_ascribes_rewards(pairs, tiny_model_dir):
    records = score(lit_align.RRHF(policy=tiny_model_dir), pairs)
    assert all(record["reward"] == pytest.approx(record["mean_logps"]) for record in records)


def test_ratings_of_the_data_stand_beside_the_score(tiny_model_dir, pairs, tmp_path):
    rows = [
        {"prompt": "a", "response": "b c", "helpfulness": 3, "verbosity": None},
        {"prompt": "a", "response": "d", "helpfulness": 0, "verbosity": 2.5},
    ]
    (tmp_path / "rated.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    model = lit_align.RegressionReward(policy=tiny_model_dir, attributes=["helpfulness", "verbosity"], weights="mean")
    records = score(model, "rated.jsonl")
    assert [record["ratings"] for record in records] == [[3.0, None], [0.0, 2.5]]


def test_whether_a_response_is_safe_stands_beside_the_score(tiny_model_dir, pairs, tmp_path):
    row = {"prompt": "a", "chosen": "b", "rejected": "c", "chosen_safe": True, "rejected_safe": False}
    (tmp_path / "safe.jsonl").write_text(json.dumps(row) + "\n")
    records = score(lit_align.CostModel(policy=tiny_model_dir), "safe.jsonl")
    assert {record["role"]: record["safe"] for record in records} == {"chosen": True, "rejected": False}


def test_a_model_of_steps_counts_steps_and_not_tokens(tiny_model_dir, pairs, tmp_path):
    row = {"prompt": "a", "completions": ["b c d", "e"], "labels": [True, False]}
    (tmp_path / "steps.jsonl").write_text(json.dumps(row) + "\n")
    (record,) = score(lit_align.ProcessReward(policy=tiny_model_dir), "steps.jsonl", tokens=True)
    assert record["steps"] == len(record["token_rewards"]) == 2
    assert "tokens" not in record
    first, second = record["token_rewards"]
    assert record["reward"] == pytest.approx(first * second)
