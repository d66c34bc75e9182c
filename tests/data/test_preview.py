"""`lit-align preview`: what it prints, that it needs no weights, and that it takes the options of `fit`."""

from __future__ import annotations

import json
import shutil

import pytest
from rich.console import Console

from lit_align.__main__ import main
from lit_align.core.batch import DataKind, Example
from lit_align.data.canonical import CanonicalRow, Dropped, Format
from lit_align.data.pipeline import Preview
from lit_align.tools.preview import show
from tests.data import tokenizers as tk


@pytest.fixture
def config(tmp_path, tiny_model_dir):
    """A configuration whose model has no weights, for a trainer that this machine could not build."""
    folder = tmp_path / "model"
    shutil.copytree(tiny_model_dir, folder, ignore=shutil.ignore_patterns("*.safetensors"))
    rows = [
        {"prompt": [{"role": "user", "content": f"Q{n}"}], "chosen": [{"role": "assistant", "content": f"yes {n}"}],
         "rejected": [{"role": "assistant", "content": "no" * 30}]}
        for n in range(5)
    ]  # fmt: skip
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    text = f"""
seed_everything: 1
model:
  class_path: DPO
  init_args: {{policy: {folder}, beta: 0.1}}
data: {{train: {tmp_path / "rows.jsonl"}, max_length: 60, cache_dir: {tmp_path / "cache"}}}
trainer: {{accelerator: gpu, devices: 64}}
"""
    (tmp_path / "config.yaml").write_text(text)
    return tmp_path / "config.yaml"


def preview(capsys, *argv):
    status = main(["preview", *map(str, argv)])
    captured = capsys.readouterr()
    return status, captured.out, captured.err


def test_shows_format_template_lengths_and_what_is_learnt(config, capsys):
    status, out, _ = preview(capsys, "--config", config, "--rows", 2)
    assert status == 0
    assert out.startswith("pairs (pairs, conversational)")
    assert "{% for message in messages %}" in out
    assert "a turn ends with '</s>'" in out
    assert "row 1" in out
    assert "row 2" in out
    assert "row 3" not in out
    assert "<s><|user|>\nQ0<|assistant|>\n[[yes 0</s>]]" in out
    assert "chosen: prompt 26 tokens, completion 6, of these learnt 6; ends its turn" in out
    assert "rejected: prompt 26 tokens, completion 34, of these learnt 34; its end was cut off" in out
    assert not (config.parent / "cache").exists()


def test_takes_the_options_of_fit(config, capsys):
    _, out, _ = preview(
        capsys, "--config", config, "--rows", 1, "--data.chat_template", "transcript", "--data.max_length", 500
    )
    assert "Human: Q0\n\nAssistant:[[ yes 0</s>]]" in out
    assert "cut off" not in out


def test_another_method_reads_the_rows_as_it_would(config, capsys):
    argv = ("--config", config, "--rows", 1)
    text = config.read_text().replace("class_path: DPO", "class_path: KTO")
    config.write_text(text)
    status, _, err = preview(capsys, *argv)
    assert status == 2
    assert "KTO learns from unpaired data" in err
    _, out, _ = preview(capsys, *argv, "--data.convert", "pairs_to_unpaired")
    assert "desirable: prompt 26" in out


def test_a_wrong_option_is_refused(config, capsys):
    status, _, err = preview(capsys, "--config", config, "--data.max_lenght", 3)
    assert status == 2
    assert "max_lenght" in err


def test_a_split_without_data(config, capsys):
    status, _, err = preview(capsys, "--config", config, "--split", "test")
    assert status == 2
    assert "data.test is not set" in err


def shown(example, tokenizer, color=None, row=1, kind=None, rating_names=()):
    fmt = Format("f", DataKind.PAIRS, False, rating_names=rating_names)
    console = Console(color_system=color, force_terminal=color is not None, width=400)
    with console.capture() as capture:
        rows = [(CanonicalRow(row, "", []), example)]
        show(Preview(fmt, rows, frozenset([2]), kind=kind), tokenizer, console)
    return capture.get()


def test_masked_turns_stand_outside_of_what_is_learnt():
    tokenizer = tk.byte_tokenizer()
    ids = tokenizer("Q a é b").input_ids
    example = Example(1, [ids], [2], [[1, 0, 1, 1, 0, 1]])
    assert "Q [[a]] [[é]] [[b]]" in shown(example, tokenizer)


def test_colours_instead_of_brackets():
    tokenizer = tk.byte_tokenizer()
    text = shown(Example(1, [tokenizer("Q a").input_ids], [2]), tokenizer, color="standard")
    assert "\x1b[1;32ma" in text
    assert "[[" not in text


def test_roles_of_several_pairs_and_labels():
    tokenizer = tk.byte_tokenizer()
    ids = [tokenizer(text).input_ids for text in ("Qa", "Qb", "Qc")]
    text = shown(Example(1, ids, [1, 1, 1], pairs=[(0, 1), (1, 2)]), tokenizer)
    assert "chosen in pair 1:" in text
    assert "rejected in pair 1, chosen in pair 2:" in text
    assert "undesirable:" in shown(Example(1, ids[:1], [1], label=False), tokenizer)


def test_scores_targets_and_second_prompts():
    tokenizer = tk.byte_tokenizer()
    ids = [tokenizer(text).input_ids for text in ("Qa", "Qb", "Qc")]
    ranked = shown(Example(1, ids, [1, 1, 1], scores=[0.5, -2.0, 1e-7]), tokenizer)
    assert [line.split(":")[0].strip() for line in ranked.splitlines() if "prompt 1 tokens" in line] == [
        "score 0.5",
        "score -2",
        "score 1e-07",
    ]
    pair = shown(Example(1, ids, [1, 1, 1], pairs=[(0, 1)], scores=[0.5, -2.0], target=2), tokenizer)
    for name in ("chosen, score 0.5:", "rejected, score -2:", "target:"):
        assert name in pair
    judged = shown(Example(1, ids[:2], [1, 1], label=False), tokenizer)
    assert "  undesirable:" in judged
    assert "undesirable, after the second prompt:" in judged
    assert "  after the second prompt:" in shown(Example(1, ids[:2], [1, 1]), tokenizer)


def test_labels_stand_at_the_ends_of_steps():
    tokenizer = tk.byte_tokenizer()
    ids = [tokenizer("Qab;c;").input_ids]
    example = Example(1, ids, [1], [[0, 0, 1, 0, 1]], step_labels=[1.0, 0.25])
    text = shown(example, tokenizer, kind=DataKind.STEPS)
    assert "  steps labelled 1, 0.25: prompt 1 tokens, completion 5, of these learnt 2\n" in text
    assert "  Qab<1>[[;]]c<0.25>[[;]]" in text
    coloured = shown(example, tokenizer, "standard", kind=DataKind.STEPS)
    assert "\x1b[1;32m<1>" in coloured
    assert "\x1b[1;31m<0.25>" in coloured


def test_ratings_safety_weights_and_orders():
    tokenizer = tk.byte_tokenizer()
    ids = [tokenizer(text).input_ids for text in ("Qa", "Qb")]
    rated = shown(Example(1, ids[:1], [1], ratings=[3.5, float("nan")]), tokenizer, rating_names=("humour", "style"))
    assert "  humour 3.5, style null: prompt" in rated
    pair = Example(1, ids, [1, 1], pairs=[(0, 1)], safe=[True, False], weights=[0.5])
    text = shown(pair, tokenizer)
    assert "  chosen, harmless, weight 0.5: prompt" in text
    assert "  rejected, harmful: prompt" in text
    text = shown(pair, tokenizer, kind=DataKind.COMPARISONS)
    assert "  chosen stands first: prompt" in text
    assert "  chosen stands second: prompt" in text


def test_ranked_rows_with_a_method_that_reads_lists(config, capsys, monkeypatch):
    monkeypatch.setattr("lit_align.DPO.data_kind", DataKind.RANKED)
    rows = [{"prompt": "Q", "responses": ["a", "bb", "a"], "scores": [1, 2.5, 3]}] * 2
    (config.parent / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    status, out, _ = preview(capsys, "--config", config, "--rows", 1)
    assert status == 0
    assert out.startswith("ranked responses (ranked, plain text)")
    assert "score 1: prompt" in out
    assert "score 2.5: prompt" in out
    assert "score 3" not in out


def test_dropped_rows_say_why():
    text = shown(Dropped(7, "longer than the limits"), tk.byte_tokenizer(), row=7)
    assert "row 7" in text
    assert "dropped: longer than the limits" in text


def test_real_data(shared_dir, tmp_path, capsys):
    argv = ["--model", "DPO", "--model.policy", shared_dir / "models" / "stories260k", "--data.train"]
    hh = [*argv, shared_dir / "data" / "hh_harmless.jsonl.gz", "--data.chat_template", "transcript"]
    status, out, _ = preview(capsys, *hh)
    assert status == 0
    assert out.startswith("HH transcripts")
    assert out.count("Assistant:[[") == 6
    ranked = [*argv, shared_dir / "data" / "alpaca_eval_ranked.jsonl.gz"]
    assert "best_worst" in preview(capsys, *ranked)[2]
    assert preview(capsys, *ranked, "--data.convert", "best_worst", "--data.separator", "\n")[0] == 0


def test_a_method_is_needed(capsys):
    status, _, err = preview(capsys, "--data.train", "rows.jsonl")
    assert status == 2
    assert "model" in err
