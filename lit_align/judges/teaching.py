"""Demonstrations of judging, out of answers that people have ranked: what teaches a model to judge.

Self-Rewarding Language Models (W. Yuan et al., 2024, https://arxiv.org/abs/2401.10020) begin with a model that was
trained on these ("evaluation fine-tuning") together with demonstrations of answering.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from lit_align.core.errors import DataError
from lit_align.judges.asking import opened
from lit_align.judges.llm_score import LEAD, LLMScoreJudge
from lit_align.judges.prompts import as_text

Row = dict[str, Any]


def judgements(rows: Iterable[Mapping[str, Any]], judge: LLMScoreJudge) -> list[Row]:
    """Each answer as a question to the judge, with the score that its place in the ranking stands for.

    The best answer to a prompt gets the highest score, the worst the lowest, and others whole scores between, evenly;
    answers that people have scored alike get the same. Reasons are not made up: the demonstration is the score alone.

    Args:
        rows: with `prompt`, `responses` (texts, or conversations of one turn) and `scores`.
        judge: in whose words, and on whose scale; it is not asked.

    Returns:
        Rows with `prompt` and `completion`; none of rows whose answers all have the same score.

    Raises:
        DataError: an answer has no score.
    """
    found = []
    for number, row in enumerate(rows, start=1):
        responses, scores = row["responses"], row["scores"]
        if len(responses) != len(scores) or any(score is None for score in scores):
            raise DataError("an answer has no score", row=number, field="scores", fix="rank all answers of the row")
        ranks = sorted(set(scores))
        if len(ranks) < 2:
            continue
        for response, score in zip(responses, scores, strict=True):
            share = ranks.index(score) / (len(ranks) - 1)
            grade = round(judge.low + share * (judge.high - judge.low))
            question, _ = judge.question(as_text(row["prompt"]), as_text(response))
            found.append(_demonstration(question, grade, judge.as_chat))
    return found


def _demonstration(question: str, grade: int, as_chat: bool) -> Row:
    said = f"{LEAD} {grade}"
    completion = [{"role": "assistant", "content": said}] if as_chat else said
    return {"prompt": opened(question, "", as_chat=as_chat), "completion": completion}
