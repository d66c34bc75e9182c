"""Context distillation: answers that the initial model gives after reading a context, for a policy that reads none."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, ClassVar, Literal

from lit_align.callbacks.regeneration import RegenerationCallback
from lit_align.core.batch import DataKind
from lit_align.core.errors import ConfigError, DataError
from lit_align.core.gathering import gathered
from lit_align.core.ranges import positive
from lit_align.data.outcome import CONTEXT_CUT
from lit_align.loops.contexts import ContextWriter
from lit_align.loops.live import LiveRound, answers, by_prompt
from lit_align.loops.own_judge import reference_of
from lit_align.loops.pairs import AnswerFilter
from lit_align.loops.store import Row
from lit_align.rollouts.hf_engine import HFEngine


class ContextDistilled(RegenerationCallback):
    """What a model does after a context, in the weights of one that does not see it: data for `ContextDistillation`.

    Askell et al., "A General Language Assistant as a Laboratory for Alignment" (2021),
    https://arxiv.org/abs/2112.00861 (section not checked). The teacher is the reference of the method: the frozen
    initial policy, or another model that it names. It reads the context and the prompt and answers; the policy, which
    sees the prompt alone, is fitted to the teacher's distributions over these answers.

    Differs: texts are the teacher's answers to the prompts of `data.train`; the paper also takes generic text. Answers
    without an end are learnt from, since each token is a distribution to be matched. The round is one, as in the paper;
    further ones draw anew from the same teacher.

    Args:
        context: what stands before every prompt: before one of messages as a system turn, before a plain text as it is;
            or turns of a conversation. None: that of each row, in its column `context`.
        samples: answers to each prompt.
        rounds: how often answers are drawn.
        temperature: 1 draws from the teacher as it is.
        reference: initial: the teacher stays as it is; nothing else is allowed.
        **loop: settings of every loop, see `RegenerationCallback`; no `engine`, since the teacher writes.

    Raises:
        ConfigError: a setting is out of range, or asks for a teacher that changes.
    """

    teaches: ClassVar[frozenset[DataKind]] = frozenset({DataKind.CONTEXTUAL})

    def __init__(
        self,
        context: str | list[dict[str, str]] | None = None,
        samples: int = 1,
        rounds: int = 1,
        temperature: float = 1.0,
        reference: Literal["previous", "initial"] = "initial",
        **loop: Any,
    ) -> None:
        super().__init__(rounds=rounds, temperature=temperature, reference=reference, **loop)
        if reference != "initial" or self.engine is not None:
            raise ConfigError(
                "the teacher of context distillation is the frozen reference of the method",
                got=f"reference: {reference}, engine: {type(self.engine).__name__}",
                fix="leave both out; another teacher is named by model.reference",
            )
        if not (context is None or context):
            raise ConfigError("a context of nothing teaches nothing", got=f"context: {context!r}", fix="give its words")
        self.context, self.samples = context, int(positive("ContextDistilled.samples", samples))

    def depends_on(self) -> Any:
        """The context, and how many answers there are."""
        return {"context": self.context, "samples": self.samples}

    def make(self, round: LiveRound) -> list[Row]:
        """The teacher's answers to prompts with their contexts."""
        prompts = [self._with_context(row) for row in round.prompts()]
        with self._teacher(round) as teacher:
            whole = round.step("prompts_with_context", lambda: self._whole(round, teacher, prompts))
            candidates = round.candidates(whole, self.samples)
        rows = round.step("demonstrations", lambda: self._rows(round, whole, candidates))
        round.require(rows, "no prompt can be learnt from with its context", "shorten it, or raise data.max_length")
        return rows

    def _with_context(self, row: Row) -> Row:
        context = row.get("context") if self.context is None else self.context
        if not context:
            raise DataError(
                "a prompt has no context",
                row=row["row"],
                field="context",
                value=row["prompt"],
                fix="give the callback a context for all prompts, or every row a column context",
            )
        return row | {"context": context}

    @contextmanager
    def _teacher(self, round: LiveRound) -> Iterator[ContextWriter]:
        """Let the frozen teacher write in the round, after contexts."""
        scorer, frozen = reference_of(self.module).model_within()
        before = round.means
        policy = before.writer
        engine = HFEngine.of(scorer, policy.tokenizer, batch_size=self.batch_size)
        teacher = ContextWriter(engine, policy.tokenizer, policy.sets, policy.seed, policy.precision)
        round.means = before._replace(writer=teacher)
        try:
            with gathered(scorer), frozen():
                yield teacher
        finally:
            round.means = before

    def _whole(self, round: LiveRound, teacher: ContextWriter, prompts: Sequence[Row]) -> list[Row]:
        kept = teacher.fitting(prompts, self.max_new_tokens)
        if len(kept) < len(prompts):
            round.counts[CONTEXT_CUT] = len(prompts) - len(kept)
        return kept

    def _rows(self, round: LiveRound, prompts: Sequence[Row], candidates: Sequence[Row]) -> list[Row]:
        of, usable = by_prompt(answers(candidates)), AnswerFilter(keep_unfinished=True, scored=False)
        rows = [
            round.demonstration(prompt, answer, context=prompt["context"])
            for prompt in prompts
            for answer in (row["answer"] for row in of[prompt["id"]])
            if usable.keep([answer])
        ]
        round.counts.update(usable.counts)
        return rows
