"""New tasks: ROUGE-L by its definition, what is left out, and what is read from answers of base and chat models."""

from __future__ import annotations

import random
from itertools import combinations

import pytest

from lit_align.core.errors import ConfigError, DataError
from lit_align.loops.new_prompts import (
    LONG,
    NO_TASK,
    SHORT,
    SIMILAR,
    NewTasks,
    ask_for_task,
    choose_examples,
    read_task,
    rouge_l,
)

TASKS = [f"Task about the thing number {number}" for number in range(12)]


def is_subsequence(some, of):
    rest = iter(of)
    return all(word in rest for word in some)


def test_the_longest_common_subsequence_by_its_definition():
    rng = random.Random(0)
    for _ in range(150):
        first, second = ([rng.choice("abcd") for _ in range(rng.randint(0, 8))] for _ in range(2))
        longest = max(
            size
            for size in range(len(first) + 1)
            if any(is_subsequence(some, second) for some in combinations(first, size))
        )
        total = len(first) + len(second)
        assert rouge_l(" ".join(first), " ".join(second)) == (2 * longest / total if total else 0)


def test_rouge_l_by_hand():
    # Of Lin (2004): "police killed the gunman" has "police the gunman" in common with the second.
    reference = "police killed the gunman"
    assert rouge_l(reference, "police kill the gunman") == 0.75
    assert rouge_l(reference, "the gunman kill police") == 0.5
    # P = 2 / 3, R = 2 / 5.
    assert rouge_l("Sort, list!", "sort") == pytest.approx(2 * (1 * 0.5) / 1.5)
    assert rouge_l("a b c", "b x c y z") == pytest.approx(2 * (2 / 3) * (2 / 5) / (2 / 3 + 2 / 5))
    assert rouge_l("same words", "Same words.") == 1
    assert rouge_l("", "") == rouge_l("a", "") == rouge_l("a", "b") == 0


class TestNewTasks:
    def test_near_copies_are_left_out(self):
        tasks = NewTasks(["Write a short poem about the sea at night"])
        assert not tasks.add("Write a short poem about the sea at noon")
        assert tasks.add("Explain how a tide comes about and when it is high")
        assert not tasks.add("explain how a tide comes about and when it is low!")
        assert tasks.tasks == ["Explain how a tide comes about and when it is high"]
        assert tasks.counts == {SIMILAR: 2}

    def test_the_limit_itself_is_too_similar(self):
        # 7 of 10 words in the same order.
        known, new = "a b c d e f g h i j", "a b c d e f g x y z"
        assert rouge_l(known, new) == pytest.approx(0.7)
        assert not NewTasks([known]).add(new)
        assert NewTasks([known], similar=0.71).add(new)

    def test_quick_refusals_change_nothing(self):
        rng = random.Random(3)
        known = [" ".join(rng.choices("abcdefgh", k=rng.randint(3, 12))) for _ in range(60)]
        new = [" ".join(rng.choices("abcdefgh", k=rng.randint(3, 12))) for _ in range(60)]
        for task in new:
            similar = any(rouge_l(task, other) >= 0.7 for other in known)
            assert NewTasks(known).add(task) is not similar

    def test_lengths(self):
        tasks = NewTasks(min_words=3, max_words=5)
        assert [tasks.add(text) for text in ("Do it.", "Sing me a song", "one two three four five six")] == [
            False,
            True,
            False,
        ]
        assert tasks.counts == {SHORT: 1, LONG: 1}

    def test_no_task(self):
        tasks = NewTasks()
        assert [tasks.add(text) for text in (None, "", "?!")] == [False] * 3
        assert tasks.counts == {NO_TASK: 3}

    @pytest.mark.parametrize(
        "limits", [{"similar": 1.5}, {"similar": 0.0}, {"min_words": 0}, {"min_words": 9, "max_words": 3}]
    )
    def test_limits_out_of_range(self, limits):
        with pytest.raises(ConfigError):
            NewTasks(**limits)


class TestAsking:
    def test_examples_are_drawn_by_key(self):
        assert choose_examples(TASKS, 8, 0, 1) == choose_examples(TASKS, 8, 0, 1) != choose_examples(TASKS, 8, 0, 2)
        assert len(set(choose_examples(TASKS, 8, 0))) == 8

    def test_too_few_examples(self):
        with pytest.raises(DataError, match="11 tasks, 13 to show"):
            choose_examples(TASKS[:11], 13)

    def test_the_text(self):
        text = ask_for_task(["Say hi.", "Count to ten. "])
        assert text.endswith("\n\nRequest 1: Say hi.\n\nRequest 2: Count to ten.\n\nRequest 3:")
        assert read_task(f"{text} Name three birds.", 2) == "Name three birds."


@pytest.mark.parametrize(
    ("answer", "task"),
    [
        (" Name three birds.", "Name three birds."),
        (" Name three birds.\n\nRequest 10: Say no.\n\nRequest 11: Say yes.", "Name three birds."),
        ("Request 9: Name three birds.", "Name three birds."),
        ("Sure! Here it is:\n\n**Request 9:** Name three birds.", "Name three birds."),
        ("Request 1: Name three birds.\nRequest 2: Say no.", "Name three birds."),
        ("Of course:\nRequest 1: Name three birds.", "Name three birds."),
        ("Name three birds.\nAnswer: Owl, hen, jay.", "Name three birds."),
        ("Name three birds.\n\nResponse:\nOwl\nhen", "Name three birds."),
        ('"Name three birds."', "Name three birds."),
        ("\u201cName three birds.\u201d", "Name three birds."),
        ("Translate:\n\nBonjour.", "Translate:\n\nBonjour."),
        ("  \n", None),
        ("Request 9:", None),
        ("Request 9: \nRequest 10: Say no.", None),
        ("Answer: Owl.", None),
    ],
)
def test_reading_a_task(answer, task):
    assert read_task(answer) == task
