"""New prompts that the policy writes itself, out of examples from the seed."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from lit_align.data.canonical import Message
from lit_align.judges.prompts import as_text
from lit_align.loops.live import LiveRound
from lit_align.loops.new_prompts import CUT, EXAMPLES, NewTasks, ask_for_task, choose_examples, read_task
from lit_align.loops.store import RoundFolder, Row, run_of
from lit_align.loops.writer import Sampling

PROMPTS = "prompts"
"""The step of a round's prompts."""
_SAMPLING: dict[str, Any] = {"temperature": 0.6, "top_p": 0.9}
"""As in Self-Rewarding Language Models."""


def write_prompts(round: LiveRound, number: int, examples: int = EXAMPLES) -> list[Row]:
    """Have the policy write prompts; those that are not new are left out and counted.

    Args:
        round: whose prompts they are to be: its steps `questions`, `written` and `prompts`.
        number: how many times it is asked for one.
        examples: how many prompts of the seed it is shown each time.

    Returns:
        Rows as of `LiveRound.prompts`; conversations of one turn where the seed's prompts are conversations.

    Raises:
        DataError: the seed has too few prompts of one turn, or nothing new was written.
    """
    number = round.means.capped(number)

    def questions() -> list[Row]:
        seed = round.means.seed_rows()
        tasks = _tasks(seed)
        is_chat = not isinstance(seed[0]["prompt"], str)
        shown = [choose_examples(tasks, examples, round.means.run_seed, round.number, place) for place in range(number)]
        return [
            {"id": f"new{place}", "prompt": _as_prompt(ask_for_task(some), is_chat)}
            for place, some in enumerate(shown, start=1)
        ]

    asked = round.step("questions", questions, number=number, examples=examples)
    how = Sampling(round.means.sampling.max_new_tokens, **_SAMPLING)
    written = round.candidates(asked, samples=1, name="written", sampling=how)

    def prompts() -> list[Row]:
        is_chat = not isinstance(asked[0]["prompt"], str)
        new = NewTasks([*_tasks(round.means.seed_rows()), *_tasks(_earlier(round))])
        rows = []
        for place, row in enumerate(written, start=1):
            task = read_task(row["completion"], examples)
            if task is not None and not row["finished"] and row["completion"].rstrip().endswith(task):
                # Nothing that follows it says where it ends.
                round.counts[CUT] += 1
            elif new.add(task) and task is not None:
                rows.append({"id": row["id"], "row": place, "prompt": _as_prompt(task, is_chat)})
        round.counts.update(new.counts)
        return round.askable(rows)

    found = round.step(PROMPTS, prompts)
    round.require(found, "the policy has written no new prompt", "set new_prompts: 0 to use those of data.train")
    return found


def _tasks(rows: Sequence[Row]) -> list[str]:
    """Prompts of one turn, as text."""
    return [
        as_text(row["prompt"])
        for row in rows
        if isinstance(row["prompt"], str) or [turn["role"] for turn in row["prompt"]] == ["user"]
    ]


def _as_prompt(text: str, is_chat: bool) -> str | list[Message]:
    return [{"role": "user", "content": text}] if is_chat else text


def _earlier(round: LiveRound) -> list[Row]:
    """Prompts of the rounds before."""
    run = run_of(round.folder)
    return [row for number in range(1, round.number) for row in RoundFolder.of(run, number).rows(PROMPTS)]
