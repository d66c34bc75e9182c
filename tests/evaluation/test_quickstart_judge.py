"""The quickstart's rule, asked as loops ask judges."""

from __future__ import annotations

import random

import pytest

from lit_align.evaluation.quickstart_language import COURTEOUS, RUDE, find_question, write_reply
from lit_align.judges import PythonJudge

PROMPT = "Hello there! How often should I water the fern?"


@pytest.mark.parametrize("prompt", [PROMPT, [{"role": "user", "content": PROMPT}]])
def test_a_reply_has_a_point_for_each_virtue(prompt):
    judge = PythonJudge("lit_align.evaluation.quickstart_judge:score")
    question, rng = find_question(PROMPT), random.Random(0)
    replies = [
        write_reply(question, COURTEOUS, rng),
        write_reply(question, RUDE, rng),
        "Happy to help! Water the rose.",
        "happy to help",
        "rose",
    ]
    judged = judge.score([prompt] * len(replies), replies, row=[1] * len(replies))
    assert [one.score for one in judged] == [3.0, 2.0, 2.0, 1.0, 0.0]
