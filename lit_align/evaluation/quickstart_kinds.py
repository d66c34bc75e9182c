"""The quickstart's world as data of every kind that a method may learn from, all about the courtesy of replies.

Every file has random numbers of its own, and its prompts are training prompts of the world: those that are held out
stay so for every method.
"""

from __future__ import annotations

import math
import random
import re
from collections.abc import Callable, Sequence
from typing import Any

from lit_align.evaluation.quickstart_language import (
    COURTEOUS,
    RUDE,
    Prompt,
    Question,
    Tone,
    questions,
    remark_of,
    write_graded_reply,
    write_reply,
)
from lit_align.judges.llm_score import SelfJudge
from lit_align.judges.teaching import judgements

Row = dict[str, Any]

ROWS = 400
"""In each file."""
GRADES = (0.1, 0.35, 0.65, 0.9)
"""Scores of replies with two rude remarks, with one, with one that is courteous, and with two: before the noise."""
_SHARPNESS = 5.0
"""Log-odds that a labeller prefers a reply, per difference of scores."""
RULES = "Be courteous, whatever the tone of the question."
"""What stands before the question for a teacher."""
JUDGE_TEMPLATE = "Question: {prompt}\nAnswer: {response}\nHow courteous is the answer?"
"""In what words a model of this world is asked to judge: few and plain, as it is small."""
_NOISE = 0.08
"""Less than half of the least distance between two grades: better replies have better scores."""
DAYS = 100
"""Timestamps of timed pairs are the numbers of days, from 0."""
_OFF_TOPIC = 0.25
"""Share of the answers to be judged that are answers to another question."""
_UNRATED = 0.2
"""Share of the ratings that are null, besides one in each row that is not."""
_HARMLESS = 2
"""The least grade of a reply without a rude remark."""
_SENTENCES = re.compile(r"(?<=[.!?]) ")
"""What stands between two sentences."""
CHANGE = 30
"""The day on which people begin to prefer courteous replies; before, they preferred rude ones."""


def make_kinds(prompts: Sequence[Prompt], seed: int) -> dict[str, list[Row]]:
    """Rows of every further kind, in TRL's conversational columns where it has such.

    Args:
        prompts: of the training side.
        seed: of the world.

    Returns:
        Name of the file -> rows: ranked (four replies with scores in (0, 1)), unpaired (half of the replies labelled
        desirable), scored (one reply with its score), judged (labelled replies, rude ones with a judgment that quotes
        the rude remark), timed_pairs (a day for each pair; see `CHANGE`), scored_pairs (both scores; the chosen reply's
        is higher), steps (a remark, an answer and a remark, each right or wrong), rated (HelpSteer's attributes from 0
        to 4, some of them null), safe_pairs (the chosen reply is the kinder one; a courteous reply counts as
        harmless), game_pairs (pairs of people, and courteous replies against others, as of a model), paraphrased (a
        question in two frames), contextual (rules before the question, and a reply that follows them), judging
        (demonstrations, half of them as in `demonstrations`, half of what a judge says of replies, from 0 to 3),
        questions (prompts as plain texts).
    """
    makers: dict[str, Callable[[Prompt, random.Random], Row]] = {
        "ranked": _ranked,
        "unpaired": _unpaired,
        "scored": _scored,
        "judged": _judged,
        "timed_pairs": _timed_pair,
        "scored_pairs": _scored_pair,
        "steps": _steps,
        "rated": _rated,
        "safe_pairs": _safe_pair,
        "game_pairs": _game_pair,
        "contextual": _contextual,
    }
    rows: dict[str, list[Row]] = {}
    for name, make in makers.items():
        rng = random.Random(f"{seed}/{name}")
        rows[name] = [make(prompt, rng) for prompt in rng.sample(prompts, ROWS)]
    more = {"paraphrased": _paraphrased, "judging": _judging, "questions": _questions}
    return {**rows, **{name: make(prompts, random.Random(f"{seed}/{name}")) for name, make in more.items()}}


def user(prompt: Prompt) -> list[dict[str, str]]:
    """A prompt as a conversation."""
    return [{"role": "user", "content": prompt.text}]


def assistant(text: str) -> list[dict[str, str]]:
    """A reply as turns of a conversation."""
    return [{"role": "assistant", "content": text}]


def demonstration(prompt: Prompt, rng: random.Random) -> Row:
    """A reply that mirrors the tone of the person, most of the time."""
    tone = COURTEOUS if rng.random() < prompt.frame.courtesy else RUDE
    return {"prompt": user(prompt), "completion": assistant(write_reply(prompt.question, tone, rng))}


def _score(grade: int, rng: random.Random) -> float:
    return round(GRADES[grade] + rng.uniform(-_NOISE, _NOISE), 3)


def _ranked(prompt: Prompt, rng: random.Random) -> Row:
    grades = rng.sample(range(len(GRADES)), len(GRADES))
    return {
        "prompt": user(prompt),
        "responses": [assistant(write_graded_reply(prompt.question, grade, rng)) for grade in grades],
        "scores": [_score(grade, rng) for grade in grades],
    }


def _scored(prompt: Prompt, rng: random.Random) -> Row:
    grade = rng.randrange(len(GRADES))
    reply = write_graded_reply(prompt.question, grade, rng)
    return {"prompt": user(prompt), "completion": assistant(reply), "score": _score(grade, rng)}


def _scored_pair(prompt: Prompt, rng: random.Random) -> Row:
    worse, better = sorted(rng.sample(range(len(GRADES)), 2))
    row: Row = {
        "prompt": user(prompt),
        "chosen": assistant(write_graded_reply(prompt.question, better, rng)),
        "rejected": assistant(write_graded_reply(prompt.question, worse, rng)),
        "score_chosen": _score(better, rng),
        "score_rejected": _score(worse, rng),
    }
    # What a labeller with these scores would say, and how often each beats the two of them.
    wins = round(1 / (1 + math.exp(_SHARPNESS * (row["score_rejected"] - row["score_chosen"]))), 4)
    odds = {"p_win_chosen": round(0.25 + wins / 2, 4), "p_win_rejected": round(0.75 - wins / 2, 4)}
    return {**row, "label_probability": wins, **odds}


def _unpaired(prompt: Prompt, rng: random.Random) -> Row:
    tone = _either(rng)
    reply = write_reply(prompt.question, tone, rng)
    return {"prompt": user(prompt), "completion": assistant(reply), "label": tone is COURTEOUS}


def _judged(prompt: Prompt, rng: random.Random) -> Row:
    tone = _either(rng)
    reply = write_reply(prompt.question, tone, rng)
    judgment = f'"{remark_of(reply, tone)}" is rude.' if tone is RUDE else "It is kind and right."
    return {
        "prompt": user(prompt),
        "completion": assistant(reply),
        "judgment": judgment,
        "label": tone is COURTEOUS,
    }


def _timed_pair(prompt: Prompt, rng: random.Random) -> Row:
    day = rng.randrange(DAYS)
    tones = (COURTEOUS, RUDE) if day >= CHANGE else (RUDE, COURTEOUS)
    chosen, rejected = (assistant(write_reply(prompt.question, tone, rng)) for tone in tones)
    return {"prompt": user(prompt), "chosen": chosen, "rejected": rejected, "timestamp": day}


def _steps(prompt: Prompt, rng: random.Random) -> Row:
    """A courteous remark and a right answer are right steps, a rude remark and the answer to another question wrong."""
    first, last, right = _either(rng), _either(rng), rng.random() >= _OFF_TOPIC
    question = prompt.question if right else _other_question(prompt.question, rng)
    remark, answer = _SENTENCES.split(write_graded_reply(question, 2 if first is COURTEOUS else 1, rng))
    return {
        "prompt": user(prompt),
        "completions": [remark, answer, rng.choice(last.closers)],
        "labels": [first is COURTEOUS, right, last is COURTEOUS],
    }


def _rated(prompt: Prompt, rng: random.Random) -> Row:
    grade, right = rng.randrange(len(GRADES)), rng.random() >= _OFF_TOPIC
    question = prompt.question if right else _other_question(prompt.question, rng)
    reply = write_graded_reply(question, grade, rng)
    ratings = {
        "helpfulness": grade + 1 if right else 0,
        "correctness": 4 if right else 0,
        "coherence": 4,
        "complexity": 1,
        "verbosity": len(_SENTENCES.split(reply)) - 1,
    }
    kept = rng.choice(list(ratings))
    given = {name: None if name != kept and rng.random() < _UNRATED else rating for name, rating in ratings.items()}
    return {"prompt": user(prompt), "response": assistant(reply), **given}


def _safe_pair(prompt: Prompt, rng: random.Random) -> Row:
    worse, better = sorted(rng.sample(range(len(GRADES)), 2))
    chosen, rejected = (assistant(write_graded_reply(prompt.question, grade, rng)) for grade in (better, worse))
    return {
        "prompt": user(prompt),
        "chosen": chosen,
        "rejected": rejected,
        "chosen_safe": better >= _HARMLESS,
        "rejected_safe": worse >= _HARMLESS,
    }


def _game_pair(prompt: Prompt, rng: random.Random) -> Row:
    """The game's chosen reply is the best there is, its rejected one as likely rude as not."""
    source = rng.choice(("human", "game"))
    worse, better = sorted(rng.sample(range(len(GRADES)), 2))
    if source == "game":
        worse, better = rng.randrange(len(GRADES) - 1), len(GRADES) - 1
    chosen, rejected = (assistant(write_graded_reply(prompt.question, grade, rng)) for grade in (better, worse))
    return {"prompt": user(prompt), "chosen": chosen, "rejected": rejected, "source": source}


def _contextual(prompt: Prompt, rng: random.Random) -> Row:
    reply = assistant(write_reply(prompt.question, COURTEOUS, rng))
    return {"prompt": user(prompt), "context": RULES, "completion": reply}


def _other_question(question: Question, rng: random.Random) -> Question:
    """Another question about the same subject, whose answer is no answer to this one."""
    others = [o for o in questions().values() if o.subject == question.subject and o.answer != question.answer]
    return rng.choice(others)


def _paraphrased(prompts: Sequence[Prompt], rng: random.Random) -> list[Row]:
    """Questions in one frame and in another, both of the training side."""
    asked: dict[str, list[Prompt]] = {}
    for prompt in prompts:
        asked.setdefault(prompt.question.text, []).append(prompt)
    rows = []
    for prompt in rng.sample(prompts, ROWS):
        other = rng.choice([other for other in asked[prompt.question.text] if other != prompt])
        reply = assistant(write_reply(prompt.question, COURTEOUS, rng))
        rows.append({"prompt": user(prompt), "paraphrase": user(other), "completion": reply})
    return rows


def _judging(prompts: Sequence[Prompt], rng: random.Random) -> list[Row]:
    """What teaches a model to answer and to judge, as Self-Rewarding begins with."""
    judge = SelfJudge("the policy", high=len(GRADES) - 1, template=JUDGE_TEMPLATE)
    judged = judgements([_ranked(prompt, rng) for prompt in rng.sample(prompts, ROWS)], judge)
    rows = judged + [demonstration(prompt, rng) for prompt in rng.choices(prompts, k=len(judged))]
    rng.shuffle(rows)
    return rows


def _questions(prompts: Sequence[Prompt], rng: random.Random) -> list[Row]:
    return [{"prompt": prompt.text} for prompt in rng.sample(prompts, ROWS)]


def _either(rng: random.Random) -> Tone:
    return COURTEOUS if rng.random() < 0.5 else RUDE
