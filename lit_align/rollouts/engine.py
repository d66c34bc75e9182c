"""What writes text and weighs the next word: the two things that judges and loops ask of a language model."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple, Protocol, runtime_checkable

from lit_align.core.errors import DataError

Prompt = str | list[dict[str, Any]] | list[int]
"""Plain text, a conversation, or token ids. A conversation that ends with an assistant's turn is gone on with."""


class Completion(NamedTuple):
    """What the model wrote after a prompt."""

    prompt: Prompt
    """As it was given."""
    text: str
    """Without special tokens and without the stop string."""
    ids: list[int]
    """Generated tokens; with EOS or the tokens of the stop string, if one of them ended it."""
    finished: bool
    """Whether the model came to an end, rather than to `max_new_tokens`."""


class PromptError(DataError):
    """Prompts that a model cannot complete.

    Args:
        refused: why, by the number of the prompt, from 1.
        value: what is wrong with the first of them.
        fix: what to do about it.
    """

    def __init__(self, refused: Mapping[int, str], *, value: str | None = None, fix: str = "") -> None:
        self.refused = dict(refused)
        row, what = next(iter(self.refused.items()))
        super().__init__(what, row=row, value=value, fix=fix)


@runtime_checkable
class Engine(Protocol):
    """A language model behind two calls; any object that has them will do, whatever library it wraps.

    A class that is to be named in a configuration needs the same types as here on its methods.
    """

    def generate(
        self,
        prompts: Sequence[Prompt],
        *,
        max_new_tokens: int = 256,
        temperature: float = 0.0,
        top_p: float = 1.0,
        seed: int | Sequence[int] = 0,
        stop: Sequence[str] = (),
    ) -> list[Completion]:
        """Complete prompts.

        Args:
            prompts: what to complete.
            max_new_tokens: longest completion, tokens.
            temperature: 0 takes the likeliest token each time; 1 samples from the model.
            top_p: sample from the likeliest tokens that have this probability together.
            seed: the i-th prompt's random numbers follow from (seed, i); or one seed for each prompt.
            stop: strings that end a completion.

        Returns:
            One completion for each prompt, in their order.

        Raises:
            PromptError: prompts are empty or too long.
        """
        ...

    def token_logps(self, prompts: Sequence[Prompt], candidates: Sequence[str]) -> list[list[float]]:
        """Weigh what may come next.

        Args:
            prompts: what is to be gone on with.
            candidates: texts that may follow, such as " A" and " B"; a white space in front counts.

        Returns:
            For each prompt, the log-probability of each candidate, nats. Of a candidate that begins another one, as
            "1" begins "10", it is that of being followed by something else than what makes the other.

        Raises:
            PromptError: prompts are empty or too long.
        """
        ...
