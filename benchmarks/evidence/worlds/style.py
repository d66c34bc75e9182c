"""A world of texts: answers are a few words on a topic, and how good they are can be counted.

Every topic has five good words out of sixteen. A prompt names a topic, an answer is some words:

    prompt "t3 ="    answer " w1 w5 w0"

W1 ("ToyStyle") scores answers by `Style.gold`; W2 ("ToyPerm") asks for all five good words, each once: `Style.valid`.
"""

from __future__ import annotations

import math
import random
from collections.abc import Sequence
from typing import Any

import torch

from lit_align.judges.base import Columns, CountingPointwise, Judged
from lit_align.rollouts.engine import Prompt

Row = dict[str, Any]

LONGEST = 10
"""Tokens of an answer, its end among them; one with so many words has not come to its end."""


class Style:
    """Topics, words, and which of them are good; the same for all seeds.

    Args:
        topics: number of topics.
        words: number of words.
        good: number of good words of a topic.
        controls: further tokens, which stand in prompts.
    """

    def __init__(self, topics: int = 12, words: int = 16, good: int = 5, controls: Sequence[str] = ()) -> None:
        generator = torch.Generator().manual_seed(0)
        self.words = [f"w{number}" for number in range(words)]
        self.topics = [f"t{number}" for number in range(topics)]
        self.controls = list(controls)
        self.good = {
            topic: [self.words[index] for index in torch.randperm(words, generator=generator)[:good].tolist()]
            for topic in self.topics
        }

    def vocabulary(self) -> list[str]:
        """All words that stand in prompts and answers."""
        return ["=", *self.words, *self.topics, *self.controls]

    # ---------------------------------------------------------------- texts

    def prompts(self, number: int, seed: int) -> list[str]:
        """Prompts on random topics."""
        rng = random.Random(f"prompts {seed}")
        return [f"{rng.choice(self.topics)} =" for _ in range(number)]

    def prompt_rows(self, number: int, seed: int) -> list[Row]:
        """Rows of `data.train` for loops that begin with prompts."""
        return [{"prompt": prompt} for prompt in self.prompts(number, seed)]

    def demonstrations(
        self, number: int, seed: int, *, share: float = 0.5, shortest: int = 3, longest: int = 8
    ) -> list[Row]:
        """Answers of W1's people: a word is one of the good ones with probability `share`, else any of all.

        Args:
            number: rows.
            seed: of all that is drawn.
            share: of words that are meant well.
            shortest: words of an answer, at least.
            longest: words of an answer, at most.
        """
        rng = random.Random(f"demonstrations {seed}")

        def answer(good: Sequence[str]) -> list[str]:
            length = rng.randint(shortest, longest)
            return [rng.choice(good if rng.random() < share else self.words) for _ in range(length)]

        return [
            {"prompt": prompt, "completion": as_answer(answer(self.good_words(prompt)))}
            for prompt in self.prompts(number, seed)
        ]

    def permutations(self, number: int, seed: int) -> list[Row]:
        """Answers of W2's people: all good words of the topic in a random order."""
        rng = random.Random(f"permutations {seed}")
        return [
            {"prompt": prompt, "completion": as_answer(rng.sample(good, len(good)))}
            for prompt in self.prompts(number, seed)
            for good in [self.good_words(prompt)]
        ]

    def good_words(self, prompt: str) -> list[str]:
        """The good words of a prompt's topic, the first that it names."""
        return self.good[next(word for word in prompt.split() if word in self.good)]

    # ---------------------------------------------------------------- worth

    def gold(self, prompt: str, answer: str) -> float:
        """What an answer is worth, at most the number of good words.

        1 for each good word, less 1/2 for each one that is bad or said again, 1 for each token that is no word, and 1
        where there is no end.
        """
        said, good = answer.split(), set(self.good_words(prompt))
        known = [word for word in said if word in self.words]
        praised = [word for word in known if word in good]
        bad, again = len(known) - len(praised), len(praised) - len(set(praised))
        return len(set(praised)) - 0.5 * (bad + again) - (len(said) - len(known)) - (len(said) >= LONGEST)

    def harm(self, answer_to: str, answer: str) -> float:
        """Share of an answer's words that are bad; 0 of an empty one."""
        said, good = answer.split(), set(self.good_words(answer_to))
        return sum(word not in good for word in said) / max(1, len(said))

    def valid(self, prompt: str, answer: str) -> bool:
        """Whether an answer is a permutation of the good words."""
        return sorted(answer.split()) == sorted(self.good_words(prompt))

    # ---------------------------------------------------------------- labels

    def pairs(
        self,
        prompts: Sequence[str],
        firsts: Sequence[str],
        seconds: Sequence[str],
        *,
        seed: int,
        scale: float = 1.0,
        length_bonus: float = 0.0,
    ) -> list[Row]:
        """Pairs labelled by a rater who follows Bradley-Terry; two equal answers make none.

        Args:
            prompts: N of them.
            firsts: [N] answers.
            seconds: [N] other answers.
            seed: of the rater.
            scale: of what an answer is worth; the larger, the surer the rater.
            length_bonus: what a word is worth to the rater besides.
        """
        rng, rows = random.Random(f"labels {seed}"), []
        for prompt, first, second in zip(prompts, firsts, seconds, strict=True):
            gap = self.gold(prompt, first) - self.gold(prompt, second)
            gap += length_bonus * (len(first.split()) - len(second.split()))
            wins = rng.random() < 1 / (1 + math.exp(-scale * gap))
            chosen, rejected = (first, second) if wins else (second, first)
            if chosen != rejected:
                rows.append({"prompt": prompt, "chosen": chosen, "rejected": rejected})
        return rows


class Gold(CountingPointwise):
    """A judge who knows what answers are worth, and may like length or make mistakes.

    Args:
        world: what answers are worth; None: the usual one.
        length_bonus: what a word is worth besides.
        noise: standard deviation of what is added; the same for the same answer, whenever it is judged.
        seed: of the noise.
    """

    def __init__(
        self, world: Style | None = None, length_bonus: float = 0.0, noise: float = 0.0, seed: int = 0
    ) -> None:
        self.world, self.length_bonus, self.noise, self.seed = world or Style(), length_bonus, noise, seed

    def _score(self, prompts: Sequence[Prompt], completions: Sequence[str], columns: Columns) -> list[Judged]:
        return [Judged(self._worth(str(prompt), answer)) for prompt, answer in zip(prompts, completions, strict=True)]

    def _worth(self, prompt: str, answer: str) -> float:
        worth = self.world.gold(prompt, answer) + self.length_bonus * len(answer.split())
        return worth + self.noise * random.Random(f"{self.seed} {prompt} {answer}").gauss(0, 1)


def as_answer(words: Sequence[str]) -> str:
    """Words as they stand behind a prompt."""
    return "".join(f" {word}" for word in words)
