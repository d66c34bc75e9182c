"""What is to be judged, read from data: responses or pairs of them, with prompts and further columns."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from itertools import islice
from typing import Any, NamedTuple, cast

from lit_align.core.batch import DataKind
from lit_align.core.errors import ConfigError
from lit_align.data.canonical import CanonicalRow, Completion, Dropped, Rules
from lit_align.data.convert import find_conversion
from lit_align.data.places import Places
from lit_align.data.readers import peek, read_rows
from lit_align.data.schema import Format, normalise, recognise
from lit_align.rollouts.engine import Prompt

_TAKEN = {"prompts", "completions", "firsts", "seconds"}
"""Names that a judge's arguments have already."""
NO_RESPONSE = "there is no response to judge"


class Item(NamedTuple):
    """A response, or two of them."""

    row: int
    """Number of the row in the set; see `Places`."""
    prompt: Prompt
    texts: tuple[str, ...]
    """The response, or the first and the second; of pairs, the chosen one is the first."""
    about: dict[str, Any]
    """Which response or pair of its row it is, and what the data say of it."""
    columns: dict[str, Any]
    """Values of the row's further columns."""


@dataclass
class Items:
    """The items of a source."""

    format: Format
    places: Places
    items: list[Item] = field(default_factory=list)
    rows: int = 0
    dropped: Counter[str] = field(default_factory=Counter)
    """Rows that are not judged, by reason."""

    @cached_property
    def _names(self) -> list[str]:
        """Of all further columns; once everything is read."""
        return list(dict.fromkeys(name for item in self.items for name in item.columns))

    def columns(self, start: int, stop: int) -> dict[str, list[Any]]:
        """Further columns of some items, each with a value for every one of them."""
        chosen = self.items[start:stop]
        return {name: [item.columns.get(name) for item in chosen] for name in self._names}


def read_items(
    source: str,
    *,
    pairs: bool = False,
    columns: Mapping[str, str | None] | None = None,
    format: str | None = None,
    convert: str | None = None,
    limit: int | None = None,
) -> Items:
    """Read what is to be judged.

    Args:
        source: file, folder or hub name; see `PreferenceDataModule`.
        pairs: read pairs; else every response by itself.
        columns: names of columns, as `name here: name in the file`.
        format: name of the format, where it cannot be told from the columns.
        convert: makes pairs of ranked responses, such as best_worst.
        limit: read so many rows at most.

    Raises:
        DataError: the data cannot be read.
        ConfigError: there are no responses, or no pairs, in the data.
    """
    rows = read_rows(source, streaming=True)
    mapping = dict(columns or {})
    names, first = peek(rows)
    fmt = recognise(names, first, mapping=mapping, file=source, wanted=DataKind.RESPONSES, name=format)
    bound = None if convert is None else find_conversion(convert, fmt.kind).bind({})
    _check_kind(source, fmt, pairs and convert is None)
    found = Items(fmt, Places(source))
    used = {mapping.get(name) or name for name in fmt.used}
    for raw in islice(rows, limit):
        found.rows += 1
        row = normalise(raw, fmt, mapping, source, rules=Rules(on_no_preference="drop"))
        number = found.places.number(raw)
        further = {n: v for n, v in raw.items() if n not in used | _TAKEN and not n.startswith("__")}
        for one in [row] if bound is None or isinstance(row, Dropped) else bound(row):
            if isinstance(one, Dropped):
                found.dropped[one.reason] += 1
                continue
            items = list(_pairs(one, number, further) if pairs else _responses(one, number, further))
            found.items += items
            if not items:
                found.dropped[NO_RESPONSE] += 1
    return found


def _check_kind(source: str, fmt: Format, needs_pairs: bool) -> None:
    if fmt.kind is DataKind.PROMPTS:
        raise ConfigError(
            "there is nothing to judge: the data are prompts without responses",
            got=f"{source}: {fmt.describe()}",
            fix="give pairs, ranked or single responses, or let `lit-align generate` write some",
        )
    if needs_pairs and fmt.kind is not DataKind.PAIRS:
        ranked = fmt.kind is DataKind.RANKED
        raise ConfigError(
            "this judge compares two responses, and the data are not pairs",
            got=f"{source}: {fmt.describe()}",
            fix="add --convert best_worst, adjacent_pairs or all_pairs" if ranked else "give pairs, or another judge",
        )


def _responses(row: CanonicalRow, number: int, further: dict[str, Any]) -> Iterator[Item]:
    if row.messages is not None:
        prompt, text = split_turns([], row.messages)
        yield Item(number, prompt, (text,), {"response": 0}, further)
        return
    roles = {place: role for pair in row.pairs for place, role in zip(pair, ("chosen", "rejected"), strict=True)}
    for place, completion in enumerate(row.completions):
        about: dict[str, Any] = {"response": place}
        if place in roles:
            about["role"] = roles[place]
        if row.label is not None:
            about["label"] = row.label
        if row.scores is not None:
            about["given_score"] = row.scores[place]
        prompt, text = split_turns(row.prompt, completion)
        yield Item(number, prompt, (text,), about, further)


def _pairs(row: CanonicalRow, number: int, further: dict[str, Any]) -> Iterator[Item]:
    for place, pair in enumerate(row.pairs):
        (prompt, first), (other, second) = (split_turns(row.prompt, row.completions[index]) for index in pair)
        if prompt == other:
            yield Item(number, prompt, (first, second), {"pair": place}, further)


def split_turns(prompt: Completion, completion: Completion) -> tuple[Prompt, str]:
    """A prompt and a text: of several turns the last one's words, the others belong to the prompt."""
    if isinstance(completion, str):
        return prompt, completion
    before = [{"role": "user", "content": prompt}] if isinstance(prompt, str) else list(prompt)
    turns = cast("Sequence[dict[str, Any]]", completion)
    return [*before, *turns[:-1]], str(turns[-1].get("content") or "")
