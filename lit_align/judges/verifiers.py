"""Judges that check: against a known answer, a pattern, or a format. 1.0 for right, 0.0 for wrong."""

from __future__ import annotations

import re
from abc import abstractmethod
from collections.abc import Sequence
from typing import Any, Literal

from lit_align.core.errors import ConfigError
from lit_align.core.ranges import not_negative
from lit_align.judges.answers import EXTRACTORS, Extraction, as_number, read_pattern, same_number, same_words
from lit_align.judges.base import Columns, CountingPointwise, Judged, column
from lit_align.rollouts.engine import Prompt

NO_KNOWN_ANSWER = "the data have no answer to compare with"
_THINK = "think"


class _AgainstAnswer(CountingPointwise):
    """A judge that compares with a column of known answers; subclasses say what is the same.

    Args:
        answer_column: holds the known answer, or a list of them of which any will do.
        extract: how to find the answer in a response.
    """

    def __init__(self, answer_column: str, extract: Extraction) -> None:
        if extract not in EXTRACTORS:
            raise ConfigError(
                "there is no such way to find an answer", got=extract, fix=f"one of {', '.join(EXTRACTORS)}"
            )
        self.answer_column, self.extract = answer_column, EXTRACTORS[extract]

    def _score(self, prompts: Sequence[Prompt], completions: Sequence[str], columns: Columns) -> list[Judged]:
        known = column(columns, self.answer_column, self)
        return [self._judge(*both) for both in zip(completions, known, strict=True)]

    def _judge(self, completion: str, known: Any) -> Judged:
        texts = [str(one) for one in (known if isinstance(known, list) else [known]) if one is not None]
        comparable = [text for text in texts if self._can_compare(text)]
        if not comparable:
            return Judged(None, f"{NO_KNOWN_ANSWER}: {known!r:.80}")
        given = self.extract(completion)
        if given is None:
            return Judged(0.0, "no answer was found in the response")
        right = any(self._same(given, text) for text in comparable)
        return Judged(float(right), f"answered {given!r:.80}, known is {' or '.join(map(repr, comparable)):.80}")

    def _can_compare(self, known: str) -> bool:
        return bool(known.strip())

    @abstractmethod
    def _same(self, given: str, known: str) -> bool:
        """Whether a response's answer is the known one."""


class ExactMatch(_AgainstAnswer):
    """1 if the answer is the known one, letter by letter or word by word.

    Args:
        answer_column: holds the known answer, or a list of them of which any will do.
        extract: how to find the answer in a response: `all` of it; `answer_line`, behind `Answer:`; `answer_tag`, in
            `<answer>`; `boxed`, in TeX; `hash`, a number behind `####`; `last_number`; or `auto`, the number that is
            marked in one of these ways, else the last one.
        compare: `text` without white space around it; or `words`: without case, punctuation and articles.
    """

    def __init__(
        self,
        answer_column: str = "ground_truth",
        extract: Extraction = "all",
        compare: Literal["text", "words"] = "text",
    ) -> None:
        super().__init__(answer_column, extract)
        self.normal = same_words if compare == "words" else str.strip

    def _same(self, given: str, known: str) -> bool:
        return self.normal(given) == self.normal(known)


class NumericMatch(_AgainstAnswer):
    r"""1 if the answer is the known number, however it is written: 1,200 or 1200.0, 0.5 or 1/2 or \frac{1}{2} or 50 %.

    The known answer may be a worked solution, such as the column `answer` of GSM8K: its number is found like that of
    a response.

    Args:
        answer_column: holds the known answer, or a list of them of which any will do.
        extract: how to find the answer; see `ExactMatch`.
        tolerance: by what share of the known number the answer may be off.
    """

    def __init__(
        self, answer_column: str = "ground_truth", extract: Extraction = "auto", tolerance: float = 0.0
    ) -> None:
        super().__init__(answer_column, extract)
        self.tolerance = not_negative("tolerance", tolerance)

    def _known(self, known: str) -> Any:
        number = as_number(known)
        return as_number(self.extract(known) or "") if number is None else number

    def _can_compare(self, known: str) -> bool:
        return self._known(known) is not None

    def _same(self, given: str, known: str) -> bool:
        number = as_number(given)
        return number is not None and same_number(number, self._known(known), self.tolerance)


class RegexMatch(CountingPointwise):
    """1 if a regular expression matches; with a column, if what its group holds is the known answer.

    Args:
        pattern: regular expression, searched for in the response; `.` does not match a line break, unless the pattern
            begins with `(?s)`.
        answer_column: holds what the first group of the last match must hold; None: any match will do.
        whole: the whole response must match.
        wanted: false gives 1 to responses that do not match.
    """

    def __init__(
        self, pattern: str, answer_column: str | None = None, whole: bool = False, wanted: bool = True
    ) -> None:
        self.pattern = read_pattern(pattern, groups=int(answer_column is not None))
        self.answer_column, self.whole, self.wanted = answer_column, whole, wanted

    def _score(self, prompts: Sequence[Prompt], completions: Sequence[str], columns: Columns) -> list[Judged]:
        if self.answer_column is None:
            return [self._judge(completion, None) for completion in completions]
        known = column(columns, self.answer_column, self)
        return [
            Judged(None, NO_KNOWN_ANSWER) if answer is None else self._judge(completion, str(answer))
            for completion, answer in zip(completions, known, strict=True)
        ]

    def _judge(self, completion: str, known: str | None) -> Judged:
        if self.whole:
            whole = self.pattern.fullmatch(completion)
            matches = [] if whole is None else [whole]
        else:
            matches = list(self.pattern.finditer(completion))
        if not matches:
            return Judged(float(not self.wanted), "no match")
        found = matches[-1][0 if known is None else 1] or ""
        fits = known is None or found.strip() == known.strip()
        return Judged(float(fits == self.wanted), f"matched {found!r:.80}")


class FormatMatch(CountingPointwise):
    """1 if a response has its parts in tags, each once, in order, and nothing around them but white space.

    Args:
        tags: names of the parts, such as think and answer. `think` alone asks only that the response begins with
            `<think>`, which stands once, and closes it: the answer follows without tags.
    """

    def __init__(self, tags: list[str] | None = None) -> None:
        self.tags = [_THINK, "answer"] if tags is None else list(tags)
        if not self.tags or not all(re.fullmatch(r"[\w-]+", tag) for tag in self.tags):
            raise ConfigError(
                "tags are names", got=f"tags: {self.tags}", fix="write them without brackets: [think, answer]"
            )
        parts = r"\s*".join(rf"<{tag}>.*?</{tag}>" for tag in self.tags)
        self.pattern = re.compile(rf"\s*{parts}\s*", re.DOTALL)

    def _score(self, prompts: Sequence[Prompt], completions: Sequence[str], columns: Columns) -> list[Judged]:
        return [self._judge(completion) for completion in completions]

    def _judge(self, completion: str) -> Judged:
        if self.tags == [_THINK]:
            fits = completion.startswith("<think>") and completion.count("<think>") == 1 and "</think>" in completion
            return Judged(float(fits), "in format" if fits else "not in format")
        for tag in self.tags:
            for mark in (f"<{tag}>", f"</{tag}>"):
                if completion.count(mark) != 1:
                    return Judged(0.0, f"{mark} stands {completion.count(mark)} times")
        fits = self.pattern.fullmatch(completion) is not None
        return Judged(float(fits), "in format" if fits else "parts out of order, or words around them")
