"""The quickstart's data of the further kinds: what they say is true, and the data module keeps every row."""

from __future__ import annotations

import hashlib
import random
from statistics import fmean

import pytest

from lit_align.core.batch import DataKind
from lit_align.data.formats import HELPSTEER
from lit_align.data.module import PreferenceDataModule
from lit_align.evaluation.quickstart_data import make_world, split_prompts, write_model, write_world
from lit_align.evaluation.quickstart_kinds import CHANGE, DAYS, ROWS, RULES
from lit_align.evaluation.quickstart_language import COURTEOUS, RUDE, assess, find_question

KINDS = {
    "ranked": DataKind.RANKED,
    "unpaired": DataKind.UNPAIRED,
    "scored": DataKind.SCORED,
    "judged": DataKind.JUDGED,
    "timed_pairs": DataKind.PAIRS,
    "scored_pairs": DataKind.PAIRS,
    "safe_pairs": DataKind.PAIRS,
    "game_pairs": DataKind.PAIRS,
    "paraphrased": DataKind.PARAPHRASED,
    "contextual": DataKind.CONTEXTUAL,
}
"""Files in which every reply is right."""
JUDGED_IN_PARTS = {"steps": DataKind.STEPS, "rated": DataKind.RATED}


@pytest.fixture(scope="module")
def world():
    return make_world(0)


def text(turns):
    (message,) = turns
    return message["content"]


def verdict(row, reply):
    return assess(text(row["prompt"]), text(reply))


def courteous(row, column):
    return verdict(row, row[column]).courteous


@pytest.mark.parametrize("name", KINDS)
def test_every_reply_is_right_and_no_prompt_is_held_out(world, name):
    training, _ = split_prompts(random.Random(0))
    asked = {prompt.text for prompt in training}
    rows = getattr(world, name)
    assert len(rows) == ROWS
    for row in rows:
        assert text(row["prompt"]) in asked
        replies = row.get("responses") or [row[side] for side in ("chosen", "rejected", "completion") if side in row]
        assert all(verdict(row, reply).right and verdict(row, reply).well_formed for reply in replies)


def test_questions_are_training_prompts_as_texts(world):
    training, _ = split_prompts(random.Random(0))
    assert len(world.questions) == ROWS
    assert {row["prompt"] for row in world.questions} <= {prompt.text for prompt in training}


def test_scores_follow_courtesy(world):
    for row in world.ranked:
        ordered = sorted(zip(row["scores"], row["responses"], strict=True), key=lambda item: item[0])
        assert [verdict(row, reply).courteous for _, reply in ordered] == [False, False, True, True]
        assert 0 < ordered[0][0] < ordered[-1][0] < 1
    assert all((row["score"] > 0.5) == courteous(row, "completion") for row in world.scored)
    assert all(0 < row["score_rejected"] < row["score_chosen"] < 1 for row in world.scored_pairs)


def test_length_does_not_tell_the_best_from_the_worst(world):
    ordered = [
        sorted(zip(row["scores"], row["responses"], strict=True), key=lambda item: item[0]) for row in world.ranked
    ]
    lengths = [[len(text(reply).split()) for _, reply in row] for row in ordered]
    worst, second, third, best = map(fmean, zip(*lengths, strict=True))
    assert abs(best - worst) < 0.5
    assert abs(third - second) < 0.5


def test_labels_and_judgments_are_true(world):
    for row in (*world.unpaired, *world.judged):
        assert row["label"] == courteous(row, "completion")
    for rows in (world.unpaired, world.judged):
        assert 0.4 < fmean(row["label"] for row in rows) < 0.6
    for row in world.judged:
        quoted = row["judgment"].split('"')[1] if '"' in row["judgment"] else None
        assert (quoted in RUDE.openers and quoted in text(row["completion"])) or row["label"]


def test_preferences_change_with_the_day(world):
    days = [row["timestamp"] for row in world.timed_pairs]
    assert 0 <= min(days) < CHANGE < max(days) < DAYS
    for row in world.timed_pairs:
        assert courteous(row, "chosen") == (row["timestamp"] >= CHANGE)
        assert courteous(row, "chosen") != courteous(row, "rejected")


@pytest.mark.parametrize("name", JUDGED_IN_PARTS)
def test_no_held_out_prompt_is_judged_in_parts(world, name):
    training, _ = split_prompts(random.Random(0))
    asked = {prompt.text for prompt in training}
    rows = getattr(world, name)
    assert len(rows) == ROWS
    assert all(text(row["prompt"]) in asked for row in rows)


def test_labels_of_steps_are_true(world):
    for row in world.steps:
        remark, answer, last = row["completions"]
        first_kind, right, last_kind = row["labels"]
        assert (remark in COURTEOUS.openers, remark in RUDE.openers) == (first_kind, not first_kind)
        assert (last in COURTEOUS.closers, last in RUDE.closers) == (last_kind, not last_kind)
        assert assess(text(row["prompt"]), answer).right == right
    shares = [fmean(row["labels"][place] for row in world.steps) for place in range(3)]
    assert all(0.4 < share < 0.85 for share in shares)


def test_ratings_are_true_where_there_are_some(world):
    for row in world.rated:
        found = verdict(row, row["response"])
        assert row["correctness"] in (None, 4 if found.right else 0)
        assert row["helpfulness"] is None or (row["helpfulness"] > 2) == (found.right and found.courteous)
        assert any(row[name] is not None for name in HELPSTEER)
    nulls = [row[name] is None for row in world.rated for name in HELPSTEER]
    assert 0.1 < fmean(nulls) < 0.2


def test_the_chosen_reply_is_never_the_harmful_one(world):
    for row in world.safe_pairs:
        for side in ("chosen", "rejected"):
            assert row[f"{side}_safe"] == courteous(row, side)
        assert row["chosen_safe"] or not row["rejected_safe"]
    assert len({(row["chosen_safe"], row["rejected_safe"]) for row in world.safe_pairs}) == 3


def test_probabilities_follow_scores(world):
    for row in world.scored_pairs:
        assert 0.5 < row["label_probability"] < 1
        assert row["p_win_chosen"] + row["p_win_rejected"] == pytest.approx(1, abs=2e-4)
        assert row["p_win_chosen"] == pytest.approx((0.5 + row["label_probability"]) / 2, abs=2e-4)


def test_the_game_is_against_the_best_reply(world):
    assert 0.4 < fmean(row["source"] == "game" for row in world.game_pairs) < 0.6
    assert {row["source"] for row in world.game_pairs} == {"game", "human"}
    assert all(courteous(row, "chosen") for row in world.game_pairs if row["source"] == "game")


def test_replies_after_rules_follow_them(world):
    assert all(courteous(row, "completion") and row["context"] == RULES for row in world.contextual)


def test_paraphrases_ask_the_same_in_another_frame(world):
    for row in world.paraphrased:
        one, other = text(row["prompt"]), text(row["paraphrase"])
        assert one != other
        assert find_question(one) == find_question(other)


def test_the_quickstarts_own_files_stay_what_they_were(world, tmp_path):
    """Further kinds have random numbers of their own; the README's numbers come from these files."""
    files = write_world(world, tmp_path)
    known = {"demonstrations": "e0c224e69c168962", "preferences": "d241c84975fac1c5",
             "preferences_heldout": "a4d1198a1cd75e41", "prompts_heldout": "ce547af8885166bd"}  # fmt: skip
    for name, digest in known.items():
        assert hashlib.sha256(files[name].read_bytes()).hexdigest().startswith(digest)
    again = write_world(make_world(0), tmp_path / "again")
    assert all(files[name].read_bytes() == again[name].read_bytes() for name in files)


def test_the_data_module_keeps_every_row(world, tmp_path):
    model = str(write_model(world.texts(), tmp_path / "model"))
    files = write_world(world, tmp_path / "data")
    for name, kind in (KINDS | JUDGED_IN_PARTS).items():
        data = PreferenceDataModule(
            str(files[name]), tokenizer=model, max_length=128, cache_dir=str(tmp_path / "cache")
        )
        assert len(data.examples("train", kind)) == ROWS
        report = data.reports["train"].to_dict()
        assert not report["left_out"]
        assert not any(report[event]["total"] for event in ("truncated", "eos_lost", "boundary_mismatches"))
