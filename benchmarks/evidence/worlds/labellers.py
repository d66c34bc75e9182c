"""Labellers of the world of texts, as engines that the product's judges ask: they know what answers are worth."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from typing import Any

from evidence.worlds.style import Style
from lit_align.judges.base import Columns, CountingPairwise, Verdict
from lit_align.rollouts.engine import Completion, Engine, Prompt

_SHOWN = re.compile(r"\[(?:REPLY(?: [AB])?|REQUEST)\]\n(.*?)\n\[END", re.DOTALL)


class Labeller(Engine):
    """Compares two answers by a letter, or scores one, with the probabilities of a language model.

    Args:
        world: what answers are worth.
        sharpness: log-odds for each point that an answer is worth more.
        bias: log-odds for the answer that is shown first.
        spread: standard deviation of the scores that it would give one answer.
    """

    def __init__(self, world: Style, sharpness: float = 1.5, bias: float = 2.0, spread: float = 1.5) -> None:
        self.world, self.sharpness, self.bias, self.spread = world, sharpness, bias, spread

    def generate(
        self,
        prompts: Sequence[Prompt],
        *,
        max_new_tokens: int = 256,
        temperature: float = 0.0,
        top_p: float = 1.0,
        top_k: int | None = None,
        min_p: float = 0.0,
        seed: int | Sequence[int] = 0,
        samples: int = 1,
        stop: Sequence[str] = (),
        logps: bool = False,
    ) -> list[Completion]:
        """It writes nothing."""
        raise NotImplementedError("this labeller weighs answers, and writes none")

    def token_logps(self, prompts: Sequence[Prompt], candidates: Sequence[str]) -> list[list[float]]:
        """Log-probabilities of letters or of scores, nats."""
        return [self._one(_SHOWN.findall(_text(prompt)), [one.strip() for one in candidates]) for prompt in prompts]

    def odds(self, request: str, first: str, second: str) -> float:
        """Log-odds that it prefers the answer that is shown first."""
        return self.sharpness * (self.world.gold(request, first) - self.world.gold(request, second)) + self.bias

    def _one(self, shown: Sequence[str], candidates: Sequence[str]) -> list[float]:
        request, *replies = shown
        if len(replies) == 2:
            odds = self.odds(request, *replies)
            return [-math.log1p(math.exp(-odds)), -math.log1p(math.exp(odds))]
        # From 1 to 10, a reply of no worth in the middle.
        meant = 5.5 + self.world.gold(request, replies[0])
        heights = [-((int(score) - meant) ** 2) / (2 * self.spread**2) for score in candidates]
        total = math.log(sum(math.exp(height) for height in heights))
        return [height - total for height in heights]


class OneOrder(CountingPairwise):
    """Asks a labeller once, in the order in which the answers come.

    Args:
        labeller: is asked.
    """

    def __init__(self, labeller: Labeller) -> None:
        self.labeller = labeller

    def _compare(
        self, prompts: Sequence[Prompt], firsts: Sequence[str], seconds: Sequence[str], columns: Columns
    ) -> list[Verdict]:
        asked = zip(prompts, firsts, seconds, strict=True)
        return [Verdict(1 / (1 + math.exp(-self.labeller.odds(str(prompt), *two)))) for prompt, *two in asked]


def _text(prompt: Any) -> str:
    return prompt if isinstance(prompt, str) else str(prompt[0]["content"])
