"""The rule of the quickstart's world as an engine: it stands for a large model that compares, criticises and mends.

The quickstart's own model knows nothing but short answers to household questions, so that it cannot be asked what is
wrong with one. In a configuration: `class_path: lit_align.evaluation.quickstart_engine.RuleEngine`.
"""

from __future__ import annotations

import math
import random
import re
from collections.abc import Sequence
from typing import Any

from lit_align.core.errors import ConfigError, DataError
from lit_align.evaluation.quickstart_language import COURTEOUS, RUDE, RUDE_WORDS, assess
from lit_align.rollouts.engine import Completion, Engine, Prompt, seeds_of

_SENTENCES = re.compile(r"(?<=[.!?]) ")
_SHOWN = re.compile(r"\[(?:REPLY [AB]|REQUEST)\]\n(.*?)\n\[END", re.DOTALL)
_KINDER = {
    rude: kind
    for many, few in ((RUDE.openers, COURTEOUS.openers), (RUDE.closers, COURTEOUS.closers))
    for rude, kind in zip(many, few, strict=True)
}


class RuleEngine(Engine):
    """Answers what `LLMJudge` (mode letters) and `CritiqueRevision` ask, about replies of the quickstart's world.

    Args:
        bias: log-odds for the reply that is shown first, whatever it says, as large models have them.
        sharpness: log-odds for each good property that one reply has and the other has not.
        oversight: share of rude remarks that a critique passes over.
    """

    def __init__(self, bias: float = 0.0, sharpness: float = 2.0, oversight: float = 0.0) -> None:
        self.bias, self.sharpness, self.oversight = bias, sharpness, oversight

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
        """A critique of the reply in each conversation, or the reply without what its critique quotes."""
        asked = [prompt for prompt in prompts for _ in range(samples)]
        seeds = seeds_of(seed, len(asked))
        texts = [self._write(prompt, random.Random(own)) for prompt, own in zip(asked, seeds, strict=True)]
        return [Completion(prompt, text, [], True) for prompt, text in zip(asked, texts, strict=True)]

    def token_logps(self, prompts: Sequence[Prompt], candidates: Sequence[str]) -> list[list[float]]:
        """Log-probabilities of the letters A and B, nats."""
        if list(candidates) != [" A", " B"]:
            raise ConfigError(
                "the quickstart's rule says A or B", got=f"candidates {list(candidates)}", fix="use mode: letters"
            )
        return [self._letters(prompt) for prompt in prompts]

    def _letters(self, prompt: Prompt) -> list[float]:
        text = prompt if isinstance(prompt, str) else str(_turns(prompt)[0]["content"])
        shown = _SHOWN.findall(text)
        if len(shown) != 3:
            raise DataError(
                "the quickstart's rule finds no two replies", value=text[:80], fix="leave the judge's template as it is"
            )
        request, first, second = shown
        gap = sum(assess(request, first)) - sum(assess(request, second))
        odds = self.sharpness * gap + self.bias
        return [-math.log1p(math.exp(-odds)), -math.log1p(math.exp(odds))]

    def _write(self, prompt: Prompt, rng: random.Random) -> str:
        turns = _turns(prompt)
        reply, request = str(turns[1]["content"]).strip(), str(turns[-1]["content"])
        sentences = _SENTENCES.split(reply)
        if "Rewrite" not in request:
            quoted = [f'"{sentence}" is rude.' for sentence in sentences if _is_rude(sentence)]
            return " ".join(kept for kept in quoted if rng.random() >= self.oversight) or "Nothing conflicts with it."
        # With a critique, what it quotes; asked directly, all that is rude.
        named = str(turns[3]["content"]) if len(turns) > 3 else reply
        return " ".join(_KINDER.get(one, one) if _is_rude(one) and one in named else one for one in sentences)


def _turns(prompt: Prompt) -> list[dict[str, Any]]:
    """The turns of a conversation about a reply.

    Raises:
        DataError: it is something else.
    """
    if isinstance(prompt, str) or not all(isinstance(turn, dict) for turn in prompt):
        raise DataError("the quickstart's rule reads conversations", value=str(prompt)[:80], fix="give messages")
    return [turn for turn in prompt if isinstance(turn, dict)]


def _is_rude(sentence: str) -> bool:
    return any(word in sentence.lower() for word in RUDE_WORDS)
