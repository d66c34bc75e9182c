"""A model writes tasks for itself: asked with examples, its answer read, and tasks that exist already left out.

After Self-Instruct (Y. Wang et al., 2022, https://arxiv.org/abs/2212.10560), which keeps a new task only if it is not
too similar, by ROUGE-L, to one that it has.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Sequence
from itertools import chain

from lit_align.core.errors import ConfigError, DataError
from lit_align.loops.diversity import words
from lit_align.loops.seeds import shuffled

EXAMPLES = 8

NO_TASK = "answer that holds no task"
SHORT = "task with too few words"
LONG = "task with too many words"
SIMILAR = "task too similar to another"
CUT = "task that was cut before its end"

_HEAD = """\
Here are requests that people have sent to an assistant. Write one more. It must be about something else than these, \
make sense to someone who reads nothing but it, and need nothing but text to answer. Write the request alone, without \
an answer.
"""
_LABEL = re.compile(r"^[ \t*#]*Request (\d{1,6})[ \t*]*:[ \t*]*", re.MULTILINE)
_ANSWER = re.compile(r"^[ \t*#]*(?:Answer|Response|Assistant)[ \t*]*:.*", re.MULTILINE | re.DOTALL)
_QUOTES = {'"': '"', "'": "'", "`": "`", "\u201c": "\u201d", "\u2018": "\u2019", "\u00ab": "\u00bb"}


def choose_examples(tasks: Sequence[str], number: int = EXAMPLES, *key: object) -> list[str]:
    """Some tasks to show to the model, drawn without replacement.

    Args:
        tasks: to draw from.
        number: how many.
        *key: what the draw is for, such as the seed of the run, the round and the number of the new task.

    Raises:
        DataError: there are not enough tasks.
    """
    if len(tasks) < number:
        raise DataError(
            "there are too few tasks to show as examples",
            value=f"{len(tasks)} tasks, {number} to show",
            fix="give more prompts, or show fewer examples",
        )
    return shuffled(tasks, *key)[:number]


def ask_for_task(examples: Sequence[str]) -> str:
    """The text that asks a model for one more task; a base model goes on with it, a chat model answers it.

    Args:
        examples: tasks to show.
    """
    shown = [f"Request {number}: {example.strip()}\n" for number, example in enumerate(examples, start=1)]
    return "\n".join([_HEAD, *shown, f"Request {len(examples) + 1}:"])


def read_task(answer: str, examples: int = EXAMPLES) -> str | None:
    """The task in an answer to `ask_for_task`; None where there is none.

    What stands before the label of the new task is no part of it, nor what follows: further tasks, or an answer.

    Args:
        answer: of the model.
        examples: how many were shown.
    """
    text = answer.strip()
    labels = list(_LABEL.finditer(text))
    own = next((label for label in labels if int(label[1]) == examples + 1), None)
    if own is None and labels and text[: labels[0].start()].strip()[-1:] in ("", ":"):
        # Counted anew, with or without a word before it.
        own = labels[0]
    start = own.end() if own else 0
    end = next((label.start() for label in labels if label.start() >= start), len(text))
    task = _ANSWER.sub("", text[start:end]).strip()
    if len(task) > 1 and _QUOTES.get(task[0]) == task[-1]:
        task = task[1:-1].strip()
    return task or None


def rouge_l(first: str, second: str) -> float:
    """How similar two texts are: ROUGE-L, the F-measure of the longest common subsequence of their words.

    C.-Y. Lin, "ROUGE: A Package for Automatic Evaluation of Summaries", 2004, https://aclanthology.org/W04-1013/, with
    precision and recall of equal weight; words in lower case, without marks.

    Returns:
        From 0 to 1; 0 where one has no words.
    """
    return _Words(words(first)).similarity(words(second))


class _Words:
    """The words of a text, to be compared with those of others.

    A row of the usual table is one number, with a 0 bit at each of these words at which the length grows: M.
    Crochemore et al., "A fast and practical bit-vector algorithm for the longest common subsequence problem", 2001.

    Args:
        found: the words, in order.
    """

    def __init__(self, found: Sequence[str]) -> None:
        self.size = len(found)
        self._places: dict[str, int] = {}
        for place, word in enumerate(found):
            self._places[word] = self._places.get(word, 0) | 1 << place

    def common(self, other: Sequence[str]) -> int:
        """Length of the longest common subsequence."""
        every = (1 << self.size) - 1
        row = every
        for word in other:
            matches = row & self._places.get(word, 0)
            row = ((row + matches) | (row - matches)) & every
        return self.size - row.bit_count()

    def similarity(self, other: Sequence[str]) -> float:
        """ROUGE-L."""
        # 2 P R / (P + R), with precision P = common / size and recall R = common / len(other).
        total = self.size + len(other)
        return 2 * self.common(other) / total if total else 0.0


class NewTasks:
    """Takes in tasks that are new, and counts those that are not.

    Args:
        known: tasks that there are already.
        similar: tasks with a ROUGE-L of this or more are the same.
        min_words: words of the shortest task.
        max_words: words of the longest task.

    Raises:
        ConfigError: a limit is out of range.
    """

    def __init__(
        self, known: Iterable[str] = (), similar: float = 0.7, min_words: int = 3, max_words: int = 150
    ) -> None:
        if not 0 < similar <= 1:
            raise ConfigError(
                "a similarity is out of range", got=f"similar: {similar}", fix="give one above 0, up to 1"
            )
        if not 1 <= min_words <= max_words:
            raise ConfigError(
                "no task can be as long as the limits say",
                got=f"min_words: {min_words}, max_words: {max_words}",
                fix="give a smallest number of 1 or more, and a largest one that is not below it",
            )
        self.similar = similar
        self.min_words = min_words
        self.max_words = max_words
        self.tasks: list[str] = []
        """Those that were taken in, in order."""
        self.counts: Counter[str] = Counter()
        """How many were left out, by the reason."""
        self._known: list[list[str]] = []
        self._holding: dict[str, list[int]] = {}
        """The known tasks that hold a word, each as often as it does."""
        for task in known:
            self._learn(words(task))

    def add(self, task: str | None) -> bool:
        """Take in a task, unless something speaks against it.

        Args:
            task: as from `read_task`.

        Returns:
            Whether it was taken in.
        """
        found = words(task or "")
        reason = NO_TASK if not found else self._against(found)
        if reason or task is None:
            self.counts[reason] += 1
            return False
        self._learn(found)
        self.tasks.append(task)
        return True

    def _against(self, found: list[str]) -> str:
        if len(found) < self.min_words:
            return SHORT
        if len(found) > self.max_words:
            return LONG
        # What two texts have in common in order is no more than what they have in common.
        shared = Counter(chain.from_iterable(self._holding.get(word, ()) for word in set(found)))
        new = _Words(found)
        for place, count in shared.items():
            known = self._known[place]
            if 2 * count / (len(found) + len(known)) >= self.similar and new.similarity(known) >= self.similar:
                return SIMILAR
        return ""

    def _learn(self, found: list[str]) -> None:
        for word in found:
            self._holding.setdefault(word, []).append(len(self._known))
        self._known.append(found)
