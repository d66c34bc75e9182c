"""Judges and engines that say what a test wants."""

from __future__ import annotations

from collections.abc import Sequence

from lit_align.judges.base import CountingPointwise, Judged
from lit_align.rollouts.engine import Completion, Prompt, PromptError


class Lengths(CountingPointwise):
    """Scores a response by its number of characters; cannot judge empty ones."""

    def _score(self, prompts, completions, columns):
        return [
            Judged(float(len(text)), "its length") if text else Judged(None, "empty: nothing") for text in completions
        ]


class FakeEngine:
    """An engine of two functions of a question's text.

    Args:
        write: what to answer, given the text and the seed.
        weigh: log-probabilities of candidates, given the text and the candidates.
        longest: characters of a question; a longer one is refused.
    """

    def __init__(self, write=None, weigh=None, longest=10**6):
        self.write, self.weigh, self.longest = write, weigh, longest
        self.asked = []
        self.released = False

    def _texts(self, prompts):
        texts = [
            prompt if isinstance(prompt, str) else "\n".join(turn["content"] for turn in prompt) for prompt in prompts
        ]
        refused = {number: "too long" for number, text in enumerate(texts, start=1) if len(text) > self.longest}
        if refused:
            raise PromptError(refused)
        self.asked += prompts
        return texts

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
        texts = self._texts(prompts)
        return [
            Completion(prompt, self.write(text, own), [], True)
            for prompt, text, own in zip(prompts, texts, seed, strict=True)
        ]

    def token_logps(self, prompts: Sequence[Prompt], candidates: Sequence[str]) -> list[list[float]]:
        return [self.weigh(text, list(candidates)) for text in self._texts(prompts)]

    def release(self):
        self.released = True
