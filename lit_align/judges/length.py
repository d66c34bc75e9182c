"""Judges whose scores are freed of the length of responses."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from typing import Literal

import torch
from transformers import PreTrainedTokenizerBase

from lit_align.core.errors import ConfigError
from lit_align.core.pretrained import load_tokenizer
from lit_align.core.ranges import not_negative, positive
from lit_align.functional.length import Side, length_normalised, length_penalised
from lit_align.judges.base import Columns, CountingPointwise, Judge, Judged, PointwiseJudge
from lit_align.rollouts.engine import Prompt

Unit = Literal["tokens", "words", "characters"]


class _LengthAware(CountingPointwise):
    """A judge that asks another one and knows how long responses are.

    Args:
        judge: whose scores these are.
        unit: what lengths are measured in.
        tokenizer: folder or hub name, for tokens; None: the judge's own.
    """

    def __init__(self, judge: PointwiseJudge, unit: Unit = "tokens", tokenizer: str | None = None) -> None:
        if unit == "tokens" and tokenizer is None and not hasattr(judge, "count_tokens"):
            raise ConfigError(
                "nothing says what a token is",
                got=f"unit: tokens, and {type(judge).__name__}, which has no tokenizer",
                fix="name a tokenizer, or set unit: words or characters",
            )
        self.judge, self.unit, self.tokenizer = judge, unit, tokenizer
        self._tokenizer: PreTrainedTokenizerBase | None = None

    def lengths(self, texts: Sequence[str]) -> list[int]:
        """How long responses are, in this judge's unit."""
        if self.unit != "tokens":
            return [len(text.split() if self.unit == "words" else text) for text in texts]
        if self.tokenizer is None:
            return self.judge.count_tokens(texts)  # type: ignore[attr-defined]
        if self._tokenizer is None:
            self._tokenizer = load_tokenizer(self.tokenizer)
        return [len(ids) for ids in self._tokenizer(list(texts), add_special_tokens=False)["input_ids"]]

    def _score(self, prompts: Sequence[Prompt], completions: Sequence[str], columns: Columns) -> list[Judged]:
        judged = self.judge.score(prompts, completions, **columns)
        there = [n for n, one in enumerate(judged) if one.score is not None]
        scores = torch.tensor([judged[n].score for n in there], dtype=torch.float64)
        lengths = self.lengths([completions[n] for n in there])
        changed = self._changed(scores, torch.tensor(lengths, dtype=torch.float64)) if there else scores
        results = list(judged)
        for n, score, length in zip(there, changed.tolist(), lengths, strict=True):
            results[n] = Judged(score, f"score {judged[n].score:.6g}, {length} {self.unit}")
        return results

    @abstractmethod
    def _changed(self, scores: torch.Tensor, lengths: torch.Tensor) -> torch.Tensor:
        """New scores [M] of scores [M] and lengths [M], float64."""

    def parts(self) -> list[Judge]:
        """The judge whose scores these are."""
        return [self.judge]


class LengthNormalised(_LengthAware):
    """Scores per token: score / (alpha + length).

    Args:
        judge: whose scores are divided.
        alpha: added to the length; the larger, the less the length of short responses matters.
        negative: a negative score divided by a length would raise long responses. `shift` first takes off the least
            score, so that none is negative; `raise` lets it be.
        minimum: the least score, for `shift`; None: the least that this judge has seen, which moves while it sees more.
        unit: what lengths are measured in.
        tokenizer: folder or hub name, for tokens; None: the judge's own.
    """

    def __init__(
        self,
        judge: PointwiseJudge,
        alpha: float = 1.0,
        negative: Literal["shift", "raise"] = "shift",
        minimum: float | None = None,
        unit: Unit = "tokens",
        tokenizer: str | None = None,
    ) -> None:
        super().__init__(judge, unit, tokenizer)
        self.alpha, self.negative, self.minimum = positive("alpha", alpha), negative, minimum
        self._least = float("inf")

    def is_divisible(self) -> bool:
        """Whether the least score is known, rather than that of what was seen."""
        return (self.negative == "raise" or self.minimum is not None) and super().is_divisible()

    def _changed(self, scores: torch.Tensor, lengths: torch.Tensor) -> torch.Tensor:
        if self.negative == "raise":
            return length_normalised(scores, lengths, self.alpha)
        self._least = min(self._least, scores.min().item())
        floor = self._least if self.minimum is None else self.minimum
        below = int((scores < floor).sum())
        if below:
            self.counts.events["score below the minimum"] += below
        return length_normalised(scores, lengths, self.alpha, floor)


class LengthPenalised(_LengthAware):
    """Scores less what a length is off the mark: score - weight * |length - target|.

    Args:
        judge: whose scores are lowered.
        target: the length that costs nothing, such as the median of chosen responses.
        weight: score per token.
        side: take off for lengths over the target, under it, or both.
        unit: what lengths are measured in.
        tokenizer: folder or hub name, for tokens; None: the judge's own.
    """

    def __init__(
        self,
        judge: PointwiseJudge,
        target: float,
        weight: float = 0.001,
        side: Side = "both",
        unit: Unit = "tokens",
        tokenizer: str | None = None,
    ) -> None:
        super().__init__(judge, unit, tokenizer)
        self.target, self.weight, self.side = not_negative("target", target), not_negative("weight", weight), side

    def _changed(self, scores: torch.Tensor, lengths: torch.Tensor) -> torch.Tensor:
        return length_penalised(scores, lengths, self.weight, self.target, self.side)
