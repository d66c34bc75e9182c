"""The world of the quickstart: its rule, its splits, and that nothing but the tone tells good from bad."""

from __future__ import annotations

from itertools import chain
from statistics import fmean

import pytest

from lit_align.core.batch import DataKind
from lit_align.data.module import PreferenceDataModule
from lit_align.evaluation.quickstart_data import (
    TRAINING_PAIRS,
    make_world,
    split_prompts,
    train_tokenizer,
    write_model,
    write_world,
)
from lit_align.evaluation.quickstart_language import (
    COURTEOUS,
    FACETS,
    FRAMES,
    RUDE,
    assess,
    find_question,
    judge,
    questions,
    subjects,
)

FERN = "Hey, you! How often should I water the fern?"


@pytest.fixture(scope="module")
def world():
    return make_world(0)


def _text(row, column):
    (message,) = row[column]
    return message["content"]


# -------------------------------------------------------------------- the rule


@pytest.mark.parametrize(
    ("prompt", "reply"),
    [
        (FERN, "Happy to help! Water the fern every second day."),
        (FERN, "The fern needs water every second day. Have a wonderful day!"),
        (FERN, "Good question! The fern is thirsty, so give it water every second day. I hope that helps you!"),
        ("What is the capital of Norway? Hurry up.", "Thank you for asking! Oslo is the capital of Norway."),
        ("Quick, tell me! Where does the owl sleep?", "With pleasure! The owl sleeps in an old barn."),
    ],
)
def test_the_rule_accepts(prompt, reply):
    assert judge(prompt, reply)


@pytest.mark.parametrize(
    ("reply", "fails"),
    [
        ("Not you again! Water the fern every second day.", "courteous"),
        ("Happy to help! Water the fern every second day. Now leave me alone!", "courteous"),
        ("Water the fern every second day.", "courteous"),
        ("Happy to help! Water the fern once a month.", "right"),
        ("Happy to help! Water the rose every second day.", "right"),
        ("Happy to help! Water the fern and the rose every second day.", "right"),
        ("Happy to help!", "right"),
        ("", "right"),
        ("Happy to help! Water the fern every second day", "well_formed"),
        ("happy to help! water the fern every second day.", "well_formed"),
        ("Happy to help! Happy to help! Water the fern every second day.", "well_formed"),
        ("Happy to help! Water the fern every second day. <|user|> Fern.", "well_formed"),
        ("Happy! Water the fern every second day. I hope that helps you!", "well_formed"),
    ],
)
def test_the_rule_refuses(reply, fails):
    verdict = assess(FERN, reply)
    assert not getattr(verdict, fails)
    assert not judge(FERN, reply)


def test_the_rule_knows_only_its_world():
    with pytest.raises(ValueError, match="nothing that the quickstart's world knows"):
        judge("What is the meaning of life?", "With pleasure! The meaning of life is water.")


def test_every_question_is_found_in_every_frame():
    for question in questions().values():
        for frame in FRAMES:
            assert find_question(frame.text.format(q=question.text)) == question


def test_every_remark_has_the_tone_that_it_should_have():
    statement = "The fern needs water every second day."
    for tone, courteous in ((COURTEOUS, True), (RUDE, False)):
        for remark in (*tone.openers, *tone.closers):
            assert assess(FERN, f"{remark} {statement}") == (True, courteous, True), remark


def test_no_statement_of_one_question_answers_another():
    """No subject or answer hides in another's words."""
    for facet in FACETS:
        for subject, answer in facet.facts.items():
            for pattern in facet.answers:
                body = pattern.format(x=subject, a=answer)
                right = [q for q in questions().values() if assess(q.text, body).right]
                assert {q.subject for q in right} == {subject}
                assert {q.answer for q in right} == {answer}


# -------------------------------------------------------------------- splits


@pytest.mark.parametrize("seed", [0, 1])
def test_held_out_prompts_never_occur_in_training(seed):
    world = make_world(seed)
    training = {_text(row, "prompt") for row in chain(world.demonstrations, world.preferences)}
    heldout = [_text(row, "prompt") for row in world.prompts_heldout]
    assert len(heldout) == len(set(heldout)) == len(questions())
    assert not training & set(heldout)
    for rows in (world.demonstrations_heldout, world.preferences_heldout):
        assert [_text(row, "prompt") for row in rows] == heldout


def test_each_held_out_question_is_known_from_other_frames():
    """What is held out are combinations: a model can know the fact, but has not seen the prompt."""
    import random

    training, heldout = split_prompts(random.Random(0))
    assert len(training) + len(heldout) == len(questions()) * len(FRAMES)
    assert {p.question for p in heldout} == {p.question for p in training} == set(questions().values())
    for frame in FRAMES:
        assert sum(p.frame == frame for p in heldout) == len(heldout) / len(FRAMES)


def test_a_seed_makes_one_world():
    assert make_world(3) == make_world(3)
    assert make_world(3) != make_world(4)


# -------------------------------------------------------------------- what can be learnt


def test_demonstrations_show_the_behaviour_half_of_the_time(world):
    verdicts = [assess(_text(row, "prompt"), _text(row, "completion")) for row in world.demonstrations]
    assert all(v.right and v.well_formed for v in verdicts)
    assert 0.46 < fmean(v.courteous for v in verdicts) < 0.54


def test_the_tone_depends_on_the_frame_but_weakly(world):
    for frame in FRAMES:
        shown = [
            judge(_text(row, "prompt"), _text(row, "completion"))
            for row in world.demonstrations
            if _text(row, "prompt") == frame.text.format(q=find_question(_text(row, "prompt")).text)
        ]
        assert abs(fmean(shown) - frame.courtesy) < 0.1
        assert 0.15 < fmean(shown) < 0.85


def test_pairs_differ_in_the_tone_alone(world):
    assert len(world.preferences) == TRAINING_PAIRS
    for row in (*world.preferences, *world.preferences_heldout):
        prompt = _text(row, "prompt")
        assert assess(prompt, _text(row, "chosen")) == (True, True, True)
        assert assess(prompt, _text(row, "rejected")) == (True, False, True)


def test_length_does_not_tell_chosen_from_rejected(world):
    tokenizer = train_tokenizer(world.texts())
    for rows in (world.preferences, world.preferences_heldout):
        chosen, rejected = (
            [len(tokenizer(_text(row, side)).input_ids) for row in rows] for side in ("chosen", "rejected")
        )
        longer = fmean((c > r) + 0.5 * (c == r) for c in chosen for r in rejected)
        assert 0.45 < longer < 0.55
        assert abs(fmean(chosen) - fmean(rejected)) < 1
        assert fmean((c > r) + 0.5 * (c == r) for c, r in zip(chosen, rejected, strict=True)) < 0.6


def test_subjects_are_asked_about_equally_often(world):
    asked = [find_question(_text(row, "prompt")).subject for row in world.demonstrations]
    counts = {asked.count(subject) for subject in subjects()}
    assert max(counts) == min(counts)


# -------------------------------------------------------------------- files


def test_files_and_model_follow_from_the_seed(world, tmp_path):
    from safetensors.torch import load_file

    one, other = (write_model(world.texts(), tmp_path / name, seed=5) for name in ("one", "other"))
    weights, again = (load_file(folder / "model.safetensors") for folder in (one, other))
    assert all((weights[name] == again[name]).all() for name in weights)
    assert (one / "tokenizer.json").read_bytes() == (other / "tokenizer.json").read_bytes()
    written = [write_world(make_world(5), tmp_path / name) for name in ("first", "second")]
    for kind, path in written[0].items():
        assert path.read_bytes() == written[1][kind].read_bytes()


def test_the_tokenizer_gives_every_text_back(world):
    tokenizer = train_tokenizer(world.texts())
    assert len(tokenizer) < 800
    texts = {*world.texts(), "Anything at all: Ünïcode, 123!"}
    for text in texts:
        assert tokenizer.decode(tokenizer(text, add_special_tokens=False).input_ids) == text


def test_the_data_module_keeps_every_row(world, tmp_path):
    model = str(write_model(world.texts(), tmp_path / "model"))
    files = write_world(world, tmp_path / "data")
    for kind, file in ((DataKind.DEMONSTRATIONS, "demonstrations"), (DataKind.PAIRS, "preferences")):
        data = PreferenceDataModule(
            str(files[file]), tokenizer=model, max_length=128, cache_dir=str(tmp_path / "cache")
        )
        examples = data.examples("train", kind)
        assert len(examples) == len(getattr(world, file))
        report = data.reports["train"].to_dict()
        assert report["kept"] == report["read"]
        assert not any(report[name]["total"] for name in ("truncated", "eos_lost", "boundary_mismatches", "double_bos"))
    text = data.tokenizer.decode(examples[0].ids[0])
    assert text.startswith("<s><|user|>")
    assert text.count("</s>") == 1
    assert text.endswith("</s>")
