"""Critique and revision: what is asked in a conversation about a reply, and what of it is imitated."""

from __future__ import annotations

import json
from functools import partial

import pytest
import torch

from lit_align.callbacks import CritiqueRevision
from lit_align.core.errors import ConfigError, DataError
from lit_align.loops.critiques import COPIED, LONG_PROMPT, NOT_ASKED, NOT_WRITTEN, TOO_LONG, UNCHANGED
from lit_align.loops.live import by_prompt
from lit_align.loops.principles import PRINCIPLES
from lit_align.methods.sft import SFT
from tests.callbacks.judged import LOOP, check_interrupted, in_trial, write_prompts
from tests.judges.fakes import FakeEngine
from tests.loops.loop_runs import dpo, rows, run_loop

SETTINGS = {name: value for name, value in LOOP.items() if name != "missing_eos_penalty"} | {"rounds": 1}


def sft(model) -> SFT:
    return SFT(policy=model, optimizer=partial(torch.optim.SGD, lr=0.05), warmup_ratio=0.0)


def answer(text, seed):
    """Finds fault once, and writes something better than the reply before."""
    if text.strip().endswith("say so."):
        return f"fault {seed % 7}"
    return f" better {text.count('better')}"


def loop(critic=None, **settings) -> CritiqueRevision:
    return CritiqueRevision(critic or FakeEngine(answer), **(SETTINGS | {"n_revisions": 2} | settings))


@pytest.fixture(scope="module")
def seed_file(tmp_path_factory) -> str:
    return write_prompts(tmp_path_factory.mktemp("seed"))


@pytest.fixture(scope="module")
def chats(tmp_path_factory) -> str:
    path = tmp_path_factory.mktemp("chats") / "chats.jsonl"
    prompts = [{"prompt": [{"role": "user", "content": f"Name {n}."}]} for n in range(5)]
    path.write_text("".join(json.dumps(row) + "\n" for row in prompts))
    return str(path)


def left_out(folder, step):
    manifest = json.loads((folder / "rounds" / "round_1" / "manifest.json").read_text())
    return manifest["steps"][step].get("left_out", {})


def test_the_critique_is_asked_for_in_the_same_conversation(tiny_model_dir, chats, tmp_path):
    run_loop(tmp_path, sft(tiny_model_dir), chats, loop())
    replies = {row["id"]: row["completion"] for row in rows(tmp_path, 1, "candidates")}
    for number in (1, 2):
        critiques = {row["id"]: row["completion"] for row in rows(tmp_path, 1, f"critiques_{number}")}
        revisions = {row["id"]: row["completion"] for row in rows(tmp_path, 1, f"revisions_{number}")}
        for row in rows(tmp_path, 1, f"revision_requests_{number}"):
            turns = row["prompt"]
            assert [turn["role"] for turn in turns] == ["user", "assistant", "user", "assistant", "user"]
            assert turns[1]["content"] == replies[row["id"]]
            assert row["principle"] in turns[2]["content"]
            assert turns[3]["content"] == critiques[row["id"]]
        replies = revisions
    learnt = by_prompt([{**row, "id": row["id"].split("/")[1]} for row in rows(tmp_path, 1, "train")])
    assert len(learnt) == 5
    for group in learnt.values():
        assert [row["completion"][0]["content"] for row in group] == [" better 0", " better 1"]
        assert all(row["principle"] in PRINCIPLES for row in group)


def test_plain_prompts_are_gone_on_with_as_text(tiny_model_dir, seed_file, tmp_path):
    run_loop(tmp_path, sft(tiny_model_dir), seed_file, loop(keep="last"))
    assert [row["completion"] for row in rows(tmp_path, 1, "train")] == [" better 1"] * 6
    request = rows(tmp_path, 1, "revision_requests_2")[0]
    assert request["prompt"].startswith("Name 0. better 0\n\nPrinciple: ")


def test_another_critic_writes_batch_by_batch_the_longest_first(tiny_model_dir, tmp_path):
    calls, uneven = [], tmp_path / "uneven.jsonl"
    uneven.write_text("".join(json.dumps({"prompt": f"Name{'.' * (n * 5 % 7)}"}) + "\n" for n in range(6)))

    class Batched(FakeEngine):
        batch_size = 4

        def generate(self, prompts, **settings):
            calls.append([len(prompt) for prompt in prompts])
            return super().generate(prompts, **settings)

    run_loop(tmp_path, sft(tiny_model_dir), str(uneven), loop(Batched(answer), n_revisions=1, part_size=64))
    assert [*map(len, calls)] == [4, 2, 4, 2]
    assert calls[0] + calls[1] == sorted(calls[0] + calls[1], reverse=True)
    assert [row["id"] for row in rows(tmp_path, 1, "revisions_1")] == [
        row["id"] for row in rows(tmp_path, 1, "prompts")
    ]


def test_the_policy_criticises_itself(tiny_model_dir, chats, tmp_path):
    words = {"critique": "{principle}?", "revision": "Again.", "principles": ["red"]}
    how = {"n_revisions": 1, "stop": ["e", "o", "a"], "drop_unchanged": False, "max_new_tokens": 32}
    run_loop(tmp_path, sft(tiny_model_dir), chats, CritiqueRevision(**SETTINGS | how | words), data={"max_length": 256})
    revisions = rows(tmp_path, 1, "revisions_1")
    written = [row for row in revisions if row["finished"] and row["completion"].strip()]
    assert len(rows(tmp_path, 1, "train")) == len(written) > 0


def test_conversations_that_would_be_cut_are_left_out_and_counted(tiny_model_dir, chats, tmp_path):
    own = CritiqueRevision(**(SETTINGS | {"n_revisions": 1}))
    with pytest.raises(DataError, match="no revision can be learnt from") as error:
        run_loop(tmp_path, sft(tiny_model_dir), chats, own)
    assert TOO_LONG in str(error.value)
    assert left_out(tmp_path, "critique_requests_1") == {TOO_LONG: 5}


def test_with_overlong_rows_dropped_they_are_left_out_and_counted_too(tiny_model_dir, chats, tmp_path):
    words = {"critique": "{principle}?", "revision": "Again.", "principles": ["red"]}
    how = {"n_revisions": 1, "stop": ["e", "o", "a"], "drop_unchanged": False, "max_new_tokens": 32}
    helpful = tmp_path / "helpful.jsonl"
    helpful.write_text("".join(json.dumps({"prompt": words}) + "\n" for words in ("Hi", "x" * 400, "Bye")))
    long = tmp_path / "long.jsonl"
    # The last leaves no room for a reply and the request for its critique.
    asked = [[{"role": "user", "content": text}] for text in (*(f"Name {n}." for n in range(5)), "x" * 175)]
    long.write_text("".join(json.dumps({"prompt": prompt}) + "\n" for prompt in asked))
    own = CritiqueRevision(**SETTINGS | how | words | {"helpful": str(helpful)})
    data = {"max_length": 240, "on_overlong": "drop"}
    run_loop(tmp_path / "run", sft(tiny_model_dir), str(long), own, data=data)
    assert left_out(tmp_path / "run", "critique_requests_1") == {TOO_LONG: 1}
    assert left_out(tmp_path / "run", "helpful_prompts") == {LONG_PROMPT: 1}
    assert len(rows(tmp_path / "run", 1, "helpful")) == 2


def test_a_revision_may_be_asked_for_at_once(tiny_model_dir, chats, tmp_path):
    run_loop(tmp_path, sft(tiny_model_dir), chats, loop(use_critique=False))
    assert len(rows(tmp_path, 1, "revision_requests_1")[0]["prompt"]) == 3
    assert not (tmp_path / "rounds" / "round_1" / "critiques_1.jsonl").exists()


def test_revisions_that_teach_nothing_are_left_out_and_counted(tiny_model_dir, chats, tmp_path):
    fault = "The words quoted here are against it."

    def write(text, seed):
        if text.strip().endswith("say so."):
            return fault
        name = text.split("Name ")[1][0]
        reply = text.split("\nPrinciple")[0].split("\n", 1)[1]
        return {"0": reply, "1": fault + " So.", "2": "  ", "3": "x" * 900}.get(name, "better")

    how = {"n_revisions": 2}
    run_loop(tmp_path, sft(tiny_model_dir), chats, loop(FakeEngine(write, longest=800), **how))
    assert left_out(tmp_path, "revised_1") == {COPIED: 1, NOT_WRITTEN: 1, UNCHANGED: 1}
    # Now the reply is too long to be asked about, and the better one stays as it is.
    assert left_out(tmp_path, "revised_2") == {COPIED: 1, NOT_WRITTEN: 1, UNCHANGED: 2, NOT_ASKED: 1}


def test_helpful_replies_are_learnt_from_as_they_are(tiny_model_dir, seed_file, chats, tmp_path):
    how = {"helpful": seed_file, "max_new_tokens": 32, "stop": list("abcdefghijklmnopqrstuvwxyzABCDEFGHIJ")}
    run_loop(tmp_path, sft(tiny_model_dir), chats, loop(**how))
    own = {row["completion"] for row in rows(tmp_path, 1, "helpful") if row["finished"]}
    helpful = [row for row in rows(tmp_path, 1, "train") if "principle" not in row]
    assert helpful
    assert {row["completion"][0]["content"] for row in helpful} <= own
    assert all("/helpful-" in row["id"] for row in helpful)
    with pytest.raises(DataError, match="helpful ones are messages"):
        run_loop(tmp_path / "other", sft(tiny_model_dir), seed_file, loop(**how | {"helpful": chats}))


def test_helpful_prompts_may_be_drawn_anew_in_every_round(tiny_model_dir, seed_file, tmp_path):
    run_loop(tmp_path, sft(tiny_model_dir), seed_file, loop(helpful=seed_file, helpful_prompts=2, rounds=3))
    drawn = [tuple(row["id"] for row in rows(tmp_path, number, "helpful_prompts")) for number in (1, 2, 3)]
    assert [len(set(names)) for names in drawn] == [2, 2, 2]
    assert len(set(drawn)) > 1
    with pytest.raises(ConfigError, match="helpful_prompts"):
        loop(helpful=seed_file, helpful_prompts=0)


def test_a_trial_answers_few_helpful_prompts(tiny_model_dir, seed_file, tmp_path):
    run_loop(tmp_path, sft(tiny_model_dir), seed_file, in_trial(loop(helpful=seed_file)))
    assert len(rows(tmp_path, 1, "helpful_prompts")) == len(rows(tmp_path, 1, "helpful")) == 3


def test_methods_that_learn_from_pairs_and_templates_of_nothing_are_refused(tiny_model_dir, seed_file, tmp_path):
    with pytest.raises(ConfigError, match="CritiqueRevision makes demonstrations"):
        run_loop(tmp_path, dpo(tiny_model_dir), seed_file, loop())
    with pytest.raises(ConfigError, match="template"):
        loop(critique="Anything wrong?")
    with pytest.raises(ConfigError, match="n_revisions"):
        loop(n_revisions=0)


def test_it_survives_being_ended_anywhere(tiny_model_dir, chats, tmp_path):
    check_interrupted(tmp_path, lambda: (sft(tiny_model_dir), loop(rounds=2)), chats)
