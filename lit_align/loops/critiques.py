"""Conversations in which a model is asked what is wrong with its own reply, and then for a better one."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from lit_align.core.batch import DataKind
from lit_align.core.errors import DataError
from lit_align.data.rounds import round_sets
from lit_align.judges.asking import as_engine, ask, release
from lit_align.judges.prompts import fill
from lit_align.loops.live import LiveRound, answers, by_prompt
from lit_align.loops.pairs import AnswerFilter
from lit_align.loops.principles import draw_principle
from lit_align.loops.seeds import sample_seed, shuffled
from lit_align.loops.source import Seed
from lit_align.loops.store import Row
from lit_align.rollouts.engine import Completion, Engine

TOO_LONG = "reply whose critique or revision needs a longer prompt than data.max_length leaves room for"
LONG_PROMPT = "helpful prompt that is longer than data.max_length leaves room for"
NOT_ASKED = "reply that the critic cannot be asked about"
NOT_WRITTEN = "revision that is empty or did not come to its end"
COPIED = "revision that repeats its critique"
UNCHANGED = "revision that changes nothing"
_COPY = 24
"""Characters from which on a critique that stands in its revision is no accident."""


class Words(NamedTuple):
    """What is asked, with {principle} where it is to stand."""

    critique: str | None
    """None: a revision is asked for at once."""
    revision: str


class Reviser:
    """Asks for critiques and revisions.

    Args:
        critic: who writes them, in place of the policy: an engine, or folder or hub name of a model.
        principles: of which one is drawn for every revision.
        words: how it is asked.
        drop_unchanged: whether revisions that change nothing are left out.
    """

    def __init__(
        self, critic: Engine | str | None, principles: Sequence[str], words: Words, *, drop_unchanged: bool
    ) -> None:
        self.critic = None if critic is None else as_engine(critic)
        self.principles, self.words, self.drop_unchanged = principles, words, drop_unchanged

    def revise(self, round: LiveRound, number: int, prompts: Sequence[Row], replies: Mapping[str, str]) -> list[Row]:
        """Revisions that can be learnt from, as steps of the round.

        Args:
            round: whose steps these are.
            number: of the revision, from 1.
            prompts: that were replied to.
            replies: to be revised, by the id of the prompt.

        Returns:
            Rows with `id`, `principle`, `critique` (null: none was asked for), `completion` and `tokens`.
        """
        talks = [
            {
                "id": row["id"],
                "principle": draw_principle(self.principles, round.means.run_seed, round.number, row["id"], number),
                "prompt": said(row["prompt"], replies[row["id"]]),
            }
            for row in prompts
        ]
        if self.words.critique is not None:
            requests = self._requests(round, f"critique_requests_{number}", talks, self.words.critique)
            critiques = {row["id"]: row["completion"] for row in self._write(round, f"critiques_{number}", requests)}
            talks = [
                row | {"critique": critiques[row["id"]], "prompt": said(row["prompt"], critiques[row["id"]])}
                for row in requests
            ]
        requests = self._requests(round, f"revision_requests_{number}", talks, self.words.revision)
        revisions = {row["id"]: row for row in self._write(round, f"revisions_{number}", requests)}
        return round.step(f"revised_{number}", lambda: self._usable(round, requests, revisions, replies))

    def release(self) -> None:
        """Give back the critic's memory."""
        if self.critic is not None:
            release(self.critic)

    def _requests(self, round: LiveRound, name: str, talks: Sequence[Row], words: str) -> list[Row]:
        """The conversations with a request at their end, as a step; the policy must be able to read them whole."""

        def whole() -> list[Row]:
            rows = [row | {"prompt": said(row["prompt"], fill(words, principle=row["principle"]))} for row in talks]
            room = round.means.sampling.max_new_tokens
            kept = rows if self.critic is not None or not rows else round.means.writer.fitting(rows, room)
            if len(kept) < len(rows):
                round.counts[TOO_LONG] += len(rows) - len(kept)
            return kept

        return round.step(name, whole)

    def _write(self, round: LiveRound, name: str, rows: Sequence[Row]) -> list[Row]:
        """What the policy or the critic writes next, as a step: rows as of candidates."""
        critic, how = self.critic, round.means.sampling
        if critic is None:
            return round.candidates(rows, 1, name=name)

        def work(part: Sequence[Row]) -> list[Row]:
            seeds = [sample_seed(round.means.run_seed, round.number, row["id"], 0, name) for row in part]

            def call(places: Sequence[int]) -> list[Completion]:
                asked = [part[place]["prompt"] for place in places]
                return critic.generate(asked, seed=[seeds[place] for place in places], **how._asdict())

            answered = ask(call, len(part))
            return [_written(row["id"], done) for row, done in zip(part, answered, strict=True)]

        return round.written(name, rows, work, critic, sampling=how._asdict())

    def _usable(
        self, round: LiveRound, requests: Sequence[Row], revisions: Mapping[str, Row], replies: Mapping[str, str]
    ) -> list[Row]:
        """The revisions that can be learnt from; the others are counted."""
        rows = []
        for request in requests:
            revision, critique = revisions[request["id"]], request.get("critique")
            reason = self._against(revision, replies[request["id"]], critique)
            if reason:
                round.counts[reason] += 1
                continue
            kept = {"id": request["id"], "principle": request["principle"], "critique": critique}
            rows.append(kept | {name: revision[name] for name in ("completion", "tokens")})
        return rows

    def _against(self, revision: Row, before: str, critique: str | None) -> str:
        """Why a revision is not learnt from; empty where it is."""
        text, fault = revision["completion"].strip(), (critique or "").strip()
        if revision.get("refused"):
            return NOT_ASKED
        if not text or not revision["finished"]:
            return NOT_WRITTEN
        if len(fault) >= _COPY and fault in text:
            return COPIED
        return UNCHANGED if self.drop_unchanged and text == before.strip() else ""


def said(prompt: Any, text: str) -> Any:
    """A conversation, or a plain text, with what is said next; turns alternate, and paragraphs do."""
    if isinstance(prompt, str):
        return f"{prompt}{text}\n\n"
    role = "user" if prompt[-1]["role"] == "assistant" else "assistant"
    return [*prompt, {"role": role, "content": text}]


def helpful_replies(round: LiveRound, source: str, number: int | None, *, is_chat: bool) -> list[Row]:
    """Rows of the policy's own replies to prompts of another source, as they are; steps of the round.

    Args:
        round: whose steps they are.
        source: file, folder or hub name.
        number: of prompts, drawn anew in every round; None: all.
        is_chat: whether the loop's own prompts are conversations.

    Raises:
        DataError: these are, and those are not.
    """
    prompts = _helpful_prompts(round, source, number, is_chat=is_chat)
    own = by_prompt(answers(round.candidates(prompts, 1, name="helpful")))

    def finished() -> list[Row]:
        usable = AnswerFilter(scored=False)
        rows = [
            round.demonstration(prompt, answer)
            for prompt in prompts
            for answer in usable.keep([row["answer"] for row in own[prompt["id"]]])
        ]
        round.counts.update(usable.counts)
        return rows

    return round.step("helpful_demonstrations", finished)


def _helpful_prompts(round: LiveRound, source: str, number: int | None, *, is_chat: bool) -> list[Row]:
    """The prompts in the style of the loop's own, and under ids that are none of theirs."""
    room = round.means.sampling.max_new_tokens
    seed = Seed(round_sets(round.means.writer.sets, source, room), DataKind.PROMPTS)

    def alike(row: Row) -> Row:
        prompt = row["prompt"]
        if not is_chat and not isinstance(prompt, str):
            fix = "give helpful prompts as plain texts too"
            raise DataError("prompts are plain texts, and helpful ones are messages", row=row["row"], fix=fix)
        if is_chat and isinstance(prompt, str):
            prompt = [{"role": "user", "content": prompt}]
        return row | {"id": f"helpful-{row['id']}", "prompt": prompt}

    def found() -> list[Row]:
        rows = seed.rows()
        if number is not None:
            rows = shuffled(rows, round.means.run_seed, "helpful", round.number)[:number]
        rows = [alike(row) for row in rows[: round.means.most]]
        kept = round.means.writer.can_ask(rows, room)
        if len(kept) < len(rows):
            round.counts[LONG_PROMPT] += len(rows) - len(kept)
        return kept

    return round.step("helpful_prompts", found, source=seed.fingerprint)


def _written(name: str, done: Completion | str) -> Row:
    """A row of what was written; of a prompt that was refused, an empty one that says why."""
    if isinstance(done, str):
        return {"id": name, "sample": 0, "completion": "", "tokens": 0, "finished": False, "refused": done}
    return {"id": name, "sample": 0, "completion": done.text, "tokens": len(done.ids), "finished": done.finished}
