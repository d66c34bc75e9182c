"""Texts in which good answers need a skill that the first policy seldom shows: those of `rare.py`, written."""

from __future__ import annotations

import random

import torch

from evidence.worlds.style import LONGEST, Row, Style, as_answer


class Skilled(Style):
    """W1, in which answers are of plain words, or of skilled ones that no other answer has.

    A skilled answer is worth more, whatever it says; which skilled words are good is the same for all topics, and only
    pairs of two skilled answers tell. The first word says which kind an answer is of; words of the other kind are bad.

    Args:
        share: of people's answers that are skilled.
        bonus: what skill is worth.
    """

    def __init__(self, share: float = 0.05, bonus: float = 4.0) -> None:
        super().__init__()
        self.share, self.bonus = share, bonus
        self.plain, self.skilled = self.words, [f"v{number}" for number in range(16)]
        self.words = self.plain + self.skilled
        generator = torch.Generator().manual_seed(1)
        self.best = {self.skilled[place] for place in torch.randperm(16, generator=generator)[:5].tolist()}

    def is_skilled(self, answer: str) -> bool:
        """Whether an answer is one: whether its first word is."""
        return any(word in self.skilled for word in answer.split()[:1])

    def demonstrations(
        self, number: int, seed: int, *, share: float | None = None, shortest: int = 4, longest: int = 6
    ) -> list[Row]:
        """People's answers, of any words of their kind.

        Args:
            number: rows.
            seed: of all that is drawn.
            share: of answers that are skilled; None: the world's.
            shortest: words of an answer, at least.
            longest: words of an answer, at most.
        """
        rng, share = random.Random(f"skills {seed}"), self.share if share is None else share
        return [
            {"prompt": prompt, "completion": as_answer(rng.choices(kind, k=rng.randint(shortest, longest)))}
            for prompt in self.prompts(number, seed)
            for kind in [self.skilled if rng.random() < share else self.plain]
        ]

    def gold(self, prompt: str, answer: str) -> float:
        """What an answer is worth: its good words and what is wrong with it, as in W1, and its skill."""
        said, skilled = answer.split(), self.is_skilled(answer)
        good = self.best if skilled else set(self.good_words(prompt))
        praised = [word for word in said if word in good]
        return self.bonus * skilled + 1.5 * len(set(praised)) - 0.5 * len(said) - (len(said) >= LONGEST)
