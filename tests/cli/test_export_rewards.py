"""Reward models of all kinds, trained, exported and scored: plain transformers gives what `lit-align score` reports."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import (
    AutoModelForSequenceClassification,
    AutoModelForTokenClassification,
    AutoTokenizer,
    pipeline,
)

import lit_align
from lit_align.__main__ import main
from lit_align.core.batch import DataKind, Example, Layout
from lit_align.core.errors import ConfigError
from lit_align.core.forward import RewardScorer
from lit_align.core.layout import build_rows
from lit_align.core.policy import LoRASpec, PolicySpec, QuantizationSpec, build_policy, load_tokenizer
from lit_align.core.saving import save_policy
from lit_align.functional.ensembles import combined
from lit_align.judges import PairModelJudge, RewardModelJudge
from tests.methods.scoring import move, ready
from tests.rows import CONVERT, write_files

RATINGS = ("helpfulness", "correctness", "coherence", "complexity", "verbosity")
LABELS = {
    "BradleyTerry": ["score"],
    "MarginReward": ["score"],
    "KWiseReward": ["score"],
    "BinaryPreference": ["score"],
    "OutcomeReward": ["score"],
    "PairwisePreference": ["first_is_better"],
    "TokenReward": ["score"],
    "CostModel": ["cost"],
    "ODIN": ["score"],
    "RegressionReward": [*RATINGS],
    "EnsembleReward": [f"member_{k}" for k in range(5)],
}
"""Sequence classifiers, and what their outputs are called."""
SCORES = {
    "CostModel": lambda outputs: -outputs[:, 0],
    "RegressionReward": lambda outputs: outputs @ torch.tensor([0.65, 0.8, 0.45, 0.55, -0.4]),
    "EnsembleReward": lambda outputs: combined(outputs.T, "uncertainty", 0.5, 0),
}
"""How the one score follows from several outputs; elsewhere it is the output."""
LORA = ("--trainer.callbacks", '[{"class_path": "LoRA", "init_args": {"r": 4}}]')


@pytest.fixture
def files(tmp_path, monkeypatch) -> dict[DataKind, str]:
    """Rows of each kind, in the working directory."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("LIT_ALIGN_CACHE", str(tmp_path / "cache"))
    return write_files(tmp_path, 8)


def lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def train_and_export(name: str, model: str, files: dict[DataKind, str], *further: str) -> tuple[Path, list[Any]]:
    """The exported folder, and what `lit-align score` says of the training data."""
    kind = getattr(lit_align, name).data_kind
    data = ("--data.train", files.get(kind, files[DataKind.PAIRS]))
    convert = ("--data.convert", CONVERT[kind]) if kind in CONVERT else ()
    quiet = ("--trainer.accelerator", "cpu", "--trainer.enable_progress_bar", "false")
    steps = ("--trainer.max_steps", "2", "--model.learning_rate", "0.01", "--trainer.default_root_dir", "run")
    assert main(["fit", "--model", name, "--model.policy", model, *data, *convert, *quiet, *steps, *further]) == 0
    assert main(["export", "run"]) == 0
    predict = ("--data.predict", data[1], "--out", "scores.jsonl")
    score = ["score", "--config", "run/config.yaml", "--ckpt_path", "last", *predict]
    if name == "PairwisePreference":
        assert main(score) == 2
        return Path("run/export"), []
    assert main([*score, "--tokens", "true"] if name in ("ProcessReward", "TokenReward") else score) == 0
    return Path("run/export"), lines(Path("scores.jsonl"))


def said(model: Any, tokenizer: Any, record: dict[str, Any]) -> torch.Tensor:
    """What a model says of a record's text, [K] or [T, K]."""
    ids = tokenizer(record["prompt"] + record["completion"], return_tensors="pt", add_special_tokens=False)["input_ids"]
    with torch.no_grad():
        return model(input_ids=ids).logits[0]


@pytest.mark.parametrize("further", [(), LORA], ids=["full", "lora"])
@pytest.mark.parametrize("name", LABELS)
def test_sequence_classifiers(name, further, files, tiny_model_dir, capsys):
    folder, records = train_and_export(name, tiny_model_dir, files, *further)
    model = AutoModelForSequenceClassification.from_pretrained(folder).eval()
    assert list(model.config.id2label.values()) == LABELS[name]
    assert model.config.label2id == {label: number for number, label in enumerate(LABELS[name])}
    assert model.score.weight.shape == (len(LABELS[name]), 32)
    if name == "PairwisePreference":
        assert "no score for a single response" in capsys.readouterr().err
        return
    tokenizer = AutoTokenizer.from_pretrained(folder)
    outputs = torch.stack([said(model, tokenizer, record) for record in records])
    scores = SCORES[name](outputs) if name in SCORES else outputs[:, 0]
    rewards = torch.tensor([record["reward"] for record in records])
    torch.testing.assert_close(rewards, scores, rtol=1e-3, atol=1e-4)
    assert rewards.std() > 1e-2
    if name == "TokenReward":
        assert all(record["token_rewards"][-1] == pytest.approx(record["reward"]) for record in records)


def test_the_row_of_quality_is_all_that_is_left_of_odin(files, tiny_model_dir):
    folder, records = train_and_export("ODIN", tiny_model_dir, files)
    model = AutoModelForSequenceClassification.from_pretrained(folder)
    row = model.score.weight[0]
    assert row.mean().abs() < 1e-6
    assert row.norm().item() == pytest.approx(1, rel=1e-5)
    # It is a reward model like any other.
    again = ("score", "--model", "BradleyTerry", "--model.policy", str(folder))
    assert main([*again, "--data.predict", files[DataKind.PAIRS], "--out", "again.jsonl"]) == 0
    assert [record["reward"] for record in lines(Path("again.jsonl"))] == pytest.approx(
        [record["reward"] for record in records], abs=1e-5
    )


def test_a_judge_takes_a_cost_for_what_it_is(files, tiny_model_dir):
    """Higher is better for judges too."""
    folder, records = train_and_export("CostModel", tiny_model_dir, files)
    judge = RewardModelJudge(str(folder))
    rows = lines(Path(files[DataKind.PAIRS]))
    judged = judge.score([row["prompt"] for row in rows], [row["chosen"] for row in rows])
    rewards = [record["reward"] for record in records if record["role"] == "chosen"]
    assert [verdict.score for verdict in judged] == pytest.approx(rewards, abs=1e-4)


@pytest.mark.parametrize(
    ("written", "settings", "read"),
    [
        ("CostModel", {}, "BradleyTerry"),
        ("PairwisePreference", {}, "OutcomeReward"),
        ("BradleyTerry", {}, "CostModel"),
        ("RegressionReward", {"attributes": ["a", "b"], "weights": "mean"}, "RegressionReward"),
    ],
)
def test_no_number_is_taken_for_another(written, settings, read, tiny_model_dir, tmp_path):
    """A cost read as a score, or one attribute as another, would be wrong without a word."""
    module = ready(written, tiny_model_dir, **settings)
    save_policy(module, load_tokenizer(tiny_model_dir), tmp_path / "model")
    assert ready(written, str(tmp_path / "model"), **settings).num_outputs == module.num_outputs
    swapped = {"attributes": ["b", "a"], "weights": "mean"} if settings else {}
    with pytest.raises(ConfigError, match="stand for something else"):
        ready(read, str(tmp_path / "model"), **swapped)


def test_a_judge_of_single_responses_refuses_a_model_of_pairs(tiny_model_dir, tmp_path):
    module = ready("PairwisePreference", tiny_model_dir)
    save_policy(module, load_tokenizer(tiny_model_dir), tmp_path / "model")
    with pytest.raises(ConfigError, match="PairModelJudge"):
        RewardModelJudge(str(tmp_path / "model")).score(["a"], ["b"])
    [verdict] = PairModelJudge(str(tmp_path / "model")).compare(["a"], ["b"], ["c"])
    assert 0 < verdict.probability < 1


@pytest.mark.parametrize("further", [(), LORA], ids=["full", "lora"])
def test_token_classifiers(further, files, tiny_model_dir):
    folder, records = train_and_export("ProcessReward", tiny_model_dir, files, *further)
    model = AutoModelForTokenClassification.from_pretrained(folder).eval()
    assert model.config.num_labels == 2
    tokenizer = AutoTokenizer.from_pretrained(folder)
    for record in records:
        probabilities = said(model, tokenizer, record).softmax(-1)[:, 1]
        ids = tokenizer(record["prompt"] + record["completion"], add_special_tokens=False)["input_ids"]
        # Every byte is a token here, and every step ends with the only line feeds.
        (feed,) = tokenizer("\n", add_special_tokens=False)["input_ids"]
        steps = probabilities[[place for place, token in enumerate(ids) if token == feed]]
        assert record["token_rewards"] == pytest.approx(steps.tolist(), rel=1e-3)
        assert record["token_texts"] == ["\n"] * len(steps)
        assert record["reward"] == pytest.approx(steps.prod().item(), rel=1e-3)
    # A judge knows from the folder what ends a step.
    judge = RewardModelJudge(str(folder), aggregate="product")
    asked = [[record[name].removeprefix("<s>") for record in records] for name in ("prompt", "completion")]
    rewards = [record["reward"] for record in records]
    assert [judged.score for judged in judge.score(*asked)] == pytest.approx(rewards, rel=1e-3)


CHAT = ("--data.as_chat", "true", "--data.system_prompt", "Be kind.", "--data.chat_template", "chatml")


@pytest.mark.parametrize(
    ("texts", "other"),
    [
        (("--data.separator", " => ", "--data.max_length", "40"), {"separator": ""}),
        (CHAT, {"system_prompt": ""}),
        (CHAT, {"as_chat": False, "system_prompt": ""}),
    ],
)
@pytest.mark.parametrize("further", [(), LORA], ids=["full", "lora"])
def test_a_judge_reads_texts_as_the_run_did(texts, other, further, files, tiny_model_dir):
    """Without being told; what it is told goes first."""
    folder, records = train_and_export("BradleyTerry", tiny_model_dir, files, *texts, *further)
    rows = lines(Path(files[DataKind.PAIRS]))
    asked = [row["prompt"] for row in rows], [row["chosen"] for row in rows]
    rewards = [record["reward"] for record in records if record["role"] == "chosen"]
    assert [one.score for one in RewardModelJudge(str(folder)).score(*asked)] == pytest.approx(rewards, abs=1e-4)
    told = RewardModelJudge(str(folder), **other).score(*asked)
    assert max(abs(one.score - reward) for one, reward in zip(told, rewards, strict=True)) > 1e-2


def test_score_says_where_its_data_are_read_otherwise(files, tiny_model_dir, capsys):
    folder, _ = train_and_export("BradleyTerry", tiny_model_dir, files, "--data.separator", " => ")
    again = ("score", "--model", "BradleyTerry", "--model.policy", str(folder), "--data.predict", files[DataKind.PAIRS])
    capsys.readouterr()
    assert main([*again, "--out", "again.jsonl"]) == 0
    assert "data.separator is '', and run/export/lit_align_text.json has ' => '" in capsys.readouterr().out
    assert main([*again, "--out", "again.jsonl", "--data.separator", " => "]) == 0
    assert "lit_align_text" not in capsys.readouterr().out


@pytest.mark.parametrize("merge", [True, False])
@pytest.mark.parametrize("quantization", [None, QuantizationSpec()], ids=["16 or 32 bits", "4 bits"])
@pytest.mark.parametrize(("head", "outputs"), [("reward", 3), ("tokens", 1), ("tokens", 2)])
def test_heads_with_adapters(head, outputs, quantization, merge, tiny_model_dir, tmp_path):
    """The head is trained whole, in its own precision; it is left out of `all-linear` and of 4 bits."""
    names = tuple("abc"[:outputs])
    settings = {"lora": LoRASpec(r=4), "quantization": quantization, "head": head, "outputs": outputs}
    policy = build_policy(PolicySpec(tiny_model_dir, seed=1, output_names=names, **settings))
    trained = {name for name, parameter in policy.named_parameters() if parameter.requires_grad and "score" in name}
    assert {name.rpartition(".")[2] for name in trained} == ({"weight"} if head == "reward" else {"weight", "bias"})
    assert type(policy.score.modules_to_save["default"]) is torch.nn.Linear
    move(policy, amount=0.1)
    saved = save_policy(policy, load_tokenizer(tiny_model_dir), tmp_path / "out", merge=merge)
    assert saved.largest_change < 5e-5
    again = build_policy(PolicySpec(str(tmp_path / "out"), head=head, outputs=outputs))
    assert list(again.config.id2label.values()) == [*names] or not merge


def test_a_head_that_is_normalised_is_written_whole_and_left_as_it_was(tiny_model_dir, tmp_path):
    tokenizer = load_tokenizer(tiny_model_dir)
    settings = {"head": "reward", "outputs": 2, "normalised_head": True}
    policy = build_policy(PolicySpec(tiny_model_dir, seed=1, lora=LoRASpec(r=4), **settings))
    move(policy, amount=0.1)
    before = {name: parameter.detach().clone() for name, parameter in policy.named_parameters()}
    with pytest.raises(ConfigError, match="adapters alone cannot hold a head that is normalised"):
        save_policy(policy, tokenizer, tmp_path / "adapters", merge=False)
    saved = save_policy(policy, tokenizer, tmp_path / "whole")
    assert all(torch.equal(before[name], parameter) for name, parameter in policy.named_parameters())
    model = AutoModelForSequenceClassification.from_pretrained(saved.folder).eval()
    example = Example(1, [[1, 40, 50, 60, 70]], [2])
    with torch.no_grad():
        scores = RewardScorer(policy, normalised=True).eval()(build_rows([example], Layout.PADDED))
        torch.testing.assert_close(model(input_ids=torch.tensor(example.ids)).logits, scores[:, :1], rtol=0, atol=5e-5)


def test_trls_way_of_reading_a_process_reward_model(files, tiny_model_dir):
    """Its documentation asks a pipeline for token classes, and takes those of the separators."""
    folder, records = train_and_export("ProcessReward", tiny_model_dir, files)
    classes = pipeline("token-classification", model=str(folder))(records[2]["prompt"] + records[2]["completion"])
    assert {found["entity"] for found in classes} <= {"LABEL_0", "LABEL_1"}
