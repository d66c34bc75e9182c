"""From the columns of a file to canonical rows: which format is this, and what does a row of it say."""

from __future__ import annotations

import difflib
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any

from lit_align.core.batch import DataKind
from lit_align.core.errors import ConfigError, DataError
from lit_align.data import normalisers
from lit_align.data.canonical import (
    BAD_ROW,
    DEFAULT_RULES,
    FILE_COLUMN,
    ROW_COLUMN,
    CanonicalRow,
    Completion,
    Dropped,
    Format,
    Message,
    Rules,
)
from lit_align.data.fields import Fields, is_json_list, parse_date
from lit_align.data.formats import FORMATS, HELPSTEER, LABELS, FormatSpec, formats_for, most
from lit_align.data.suggest import in_words, suggest_mapping

__all__ = ["CanonicalRow", "Completion", "Dropped", "Format", "Message", "Rules", "normalise", "recognise"]

Mapped = Mapping[str, str | None]
"""Canonical name of a column -> its name in the file, or None: treat the column as absent."""
_BY_NAME = {spec.name: spec for spec in FORMATS}
_NAMES = sorted({name for spec in FORMATS for name in spec.columns()})
_PREFERENCES = (DataKind.PAIRS, DataKind.UNPAIRED, DataKind.RANKED, DataKind.JUDGED, DataKind.STEPS)
_EXTENDED = (DataKind.SCORED, DataKind.PARAPHRASED, DataKind.CONTEXTUAL, DataKind.RATED)
"""Demonstrations with a further column, which those who want demonstrations may pass over."""
_OWN_NAMES = (DataKind.STEPS, DataKind.RATED)
"""Kinds whose columns have names that elsewhere may be others misspelt, such as `labels`."""
_COMMON_NAMES = {name for spec in FORMATS if spec.kind not in _OWN_NAMES for name in spec.columns()}


def recognise(
    columns: Sequence[str],
    first_rows: Sequence[Mapping[str, Any]],
    *,
    mapping: Mapped | None = None,
    file: str = "",
    wanted: DataKind | None = None,
    name: str | None = None,
    on_request: Collection[str] = (),
    rating_names: Collection[str] = (),
) -> Format:
    """Tell the format of a file from its columns and first rows.

    Columns that hold preferences win over demonstrations, and these over prompts; a format that needs more
    columns wins over one that needs some of them.

    Args:
        columns: the file's columns; names that begin with two underscores are ours and passed over.
        first_rows: some rows, to tell texts from messages.
        mapping: canonical names of columns -> their names in the file; None leaves a column out.
        file: name of the file, for messages.
        wanted: what the method learns from; decides where a file can be read in several ways.
        name: name of the format, where the user has settled it.
        on_request: columns that are read because the method asks for them; see `formats.ON_REQUEST`.
        rating_names: attributes that the method asks for; by default those that objects of ratings have, or
            HelpSteer's.

    Raises:
        DataError: where no format fits, or several do.
        ConfigError: where `mapping` or `name` cannot be followed.
    """
    mapping = _checked_mapping(mapping or {}, columns, file, sorted({*_NAMES, *rating_names}))
    found = [column for column in _mapped_columns(columns, mapping) if not column.startswith("__")]
    rows = [rename(row, mapping) for row in first_rows]
    if name is not None and name not in _BY_NAME:
        raise ConfigError(
            f"there is no data format '{name}'", got=name, fix=f"one of: {', '.join(map(repr, _BY_NAME))}"
        )
    formats = formats_for(on_request, rating_names)
    candidates = [spec for spec in formats if name in (None, spec.name)]
    if name is not None:
        # The first rows do not always show what labels of steps mean; who names the format knows.
        candidates = [spec._replace(fits=None) if spec.kind is DataKind.STEPS else spec for spec in candidates]
    # A column of a few odd rows must not decide: these rows are reported when their turn comes.
    usual = [column for column in found if most(column in row for row in rows)]
    matching = [spec for spec in candidates if spec.matches(usual, rows)]
    matching = matching or [spec for spec in candidates if spec.matches(found, rows)]
    spec = _judged(_choose(matching, wanted, found, file), matching, rows)
    if name is None:
        _check_spelling(spec, formats, usual, rows, mapping, wanted, file)
        if wanted is DataKind.RATED and (spec is None or spec.kind is not wanted):
            _check_attributes(found, rating_names, file)
    if spec is None:
        raise _unknown_columns(found, rows, name, file, formats)
    rated = tuple(rating_names or _rated_attributes(rows)) if spec.kind is DataKind.RATED else ()
    read = set(spec.columns(on_request, rated))
    conversational = spec.always_conversational or any(_are_messages(rows, body) for body in spec.bodies)
    plain_pairs = spec.normalise is normalisers.pairs and not conversational
    if name is None:
        _check_unread(spec, conversational, found, rows, mapping, wanted, file)
    return Format(
        spec.name,
        spec.kind,
        conversational,
        used=tuple(column for column in found if column in read),
        ignored=tuple(column for column in found if column not in read),
        repeats_prompt=plain_pairs and normalisers.repeat_prompts(rows),
        dated=most(parse_date(row["timestamp"]) is not None for row in rows if _is_given(row.get("timestamp"))),
        on_request=tuple(on_request),
        rating_names=rated,
    )


def normalise(
    row: Mapping[str, Any],
    fmt: Format,
    mapping: Mapped | None = None,
    file: str = "",
    row_number: int = 0,
    rules: Rules = DEFAULT_RULES,
) -> CanonicalRow | Dropped:
    """Turn one row of a recognised file into a canonical row, or into a note that it is left out.

    Args:
        row: the row as it was read.
        fmt: what `recognise` said of its file.
        mapping: canonical names of columns -> their names in the file.
        file: name of the file, for messages; rows that name their own go before.
        row_number: 1-based row in the file; by default what the row says.
        rules: what becomes of rows that cannot be trained on.

    Raises:
        DataError: for a malformed row, unless `rules` say otherwise.
    """
    spec = _BY_NAME[fmt.name]
    file, row_number = str(row.get(FILE_COLUMN) or file), row_number or int(row.get(ROW_COLUMN) or 0)
    renamed = rename(row, mapping or {})
    readable = {name: renamed[name] for name in spec.columns(fmt.on_request, fmt.rating_names) if name in renamed}
    columns = [name for name in renamed if not name.startswith("__")]
    fields = Fields(
        readable,
        file,
        row_number,
        recorded=spec.recorded,
        columns=columns,
        repeats_prompt=fmt.repeats_prompt,
        dated=fmt.dated,
        rating_names=fmt.rating_names,
    )
    try:
        for need in spec.required:
            names = need.split("|")
            if not any(fields.has(name) for name in names) and need not in spec.nullable:
                fields.required(names[0])
        _check_unread_label(spec, renamed, fields)
        result = spec.normalise(fields, fmt.conversational)
    except DataError as error:
        if rules.on_bad_row == "error":
            raise
        return Dropped(row_number, f"{BAD_ROW}: {error.what}", str(error))
    if isinstance(result, Dropped) and rules.on_no_preference == "error":
        raise undecided_row(result, file, row_number)
    return result


def undecided_row(dropped: Dropped, file: str, row: int) -> DataError:
    """The error for a row that prefers nothing, where that is not to be passed over."""
    fix = "remove the row, or set data.on_no_preference=drop to leave such rows out and count them"
    return DataError(dropped.reason, file=file, row=row, value=dropped.detail, fix=fix)


def rename(row: Mapping[str, Any], mapping: Mapped) -> dict[str, Any]:
    """A row under canonical names; columns that a mapping claims or hides lose their own names."""
    taken = {source for source in mapping.values() if source} | set(mapping)
    renamed = {name: value for name, value in row.items() if name not in taken}
    renamed.update({name: row[source] for name, source in mapping.items() if source and source in row})
    return renamed


def _mapped_columns(columns: Sequence[str], mapping: Mapped) -> list[str]:
    return list(rename(dict.fromkeys(columns), mapping))


def _rated_attributes(rows: Sequence[Mapping[str, Any]]) -> Iterable[str]:
    """What the objects of ratings in some rows are ratings of; HelpSteer's attributes where there are no objects."""
    objects = [row.get("ratings") or row.get("labels") for row in rows]
    names = dict.fromkeys(name for value in objects if isinstance(value, dict) for name in value)
    return names or HELPSTEER


def _checked_mapping(mapping: Mapped, columns: Sequence[str], file: str, names: Sequence[str]) -> Mapped:
    sources = [source for source in mapping.values() if source]
    for name, source in mapping.items():
        if name not in names:
            close = difflib.get_close_matches(name, names, 3)
            hint = f"did you mean {' or '.join(map(repr, close))}? " if close else ""
            raise ConfigError(
                f"data.columns names '{name}', which is no column that lit-align reads",
                got=f"columns: {{{name}: {source}}}",
                fix=f"{hint}write 'name here: name in the file'; names here are {', '.join(names)}",
            )
        if source and sources.count(source) > 1:
            raise ConfigError(
                f"data.columns reads the column '{source}' twice",
                got=f"columns: {dict(mapping)}",
                fix="give each name a column of its own",
            )
        if source and source not in columns:
            close = difflib.get_close_matches(source, columns, 1)
            hint = f"did you mean '{close[0]}'? " if close else ""
            raise DataError(
                f"data.columns maps '{name}' to a column that is not there",
                file=file,
                field=source,
                value=f"columns {', '.join(columns)}",
                fix=f"{hint}name one of the columns of the file; where the configuration's {in_words(mapping)} was "
                "made for other data, clear it with --data.columns null",
            )
    return mapping


def _choose(matching: list[FormatSpec], wanted: DataKind | None, found: list[str], file: str) -> FormatSpec | None:
    """The format to read a file as, of those that fit it; None where none does."""
    further = (_PREFERENCES, _EXTENDED, (DataKind.DEMONSTRATIONS,), (DataKind.PROMPTS,))
    for kinds in ([wanted] if wanted else [], *further):
        group = [spec for spec in matching if spec.kind in kinds]
        best = [spec for spec in group if not any(set(spec.required) < set(other.required) for other in group)]
        if len(best) > 1 and best[0].required == best[1].required:
            best = [spec for spec in best if spec.fits is not None] or best
        if len(best) > 1:
            names = " or ".join(f"'{spec.name}'" for spec in best)
            raise DataError(
                "the columns can be read in several ways",
                file=file,
                field=", ".join(found),
                value=names,
                fix="set data.format to one of them, or leave columns out with data.columns={name: null}",
            )
        if best:
            return best[0]
    return None


def _judged(
    spec: FormatSpec | None, matching: list[FormatSpec], rows: Sequence[Mapping[str, Any]]
) -> FormatSpec | None:
    """The format that reads the same columns as demonstrations and what the rows say of them, where there is one.

    Who wants demonstrations must not imitate responses that the file calls bad without having said so.
    """
    if spec is None or spec.kind is not DataKind.DEMONSTRATIONS:
        return spec
    for other in matching:
        judgements = set(other.required) - set(spec.required)
        columns = [name for need in judgements for name in need.split("|")]
        given = any(_is_given(row.get(name)) for row in rows for name in columns)
        if other.kind in _PREFERENCES and set(spec.required) < set(other.required) and given:
            return other
    return spec


def _check_unread_label(spec: FormatSpec, row: Mapping[str, Any], fields: Fields) -> None:
    """Refuse a demonstration that says whether it is a good one: the first rows of its file did not."""
    if spec.kind not in (DataKind.DEMONSTRATIONS, DataKind.PARAPHRASED, DataKind.CONTEXTUAL):
        return
    for name in LABELS:
        if _is_given(row.get(name)):
            without = "remove their rows"
            if spec.kind is DataKind.DEMONSTRATIONS:
                without = "label every row and set data.convert=unpaired_to_desirable"
            fix = (
                f"to imitate all responses whatever their labels say, set --data.columns '{{{name}: null}}'; "
                f"to leave out the undesirable ones, {without}"
            )
            raise fields.error("a demonstration has a label, which would not be read", name, fix, row[name])


def _is_given(value: Any) -> bool:
    return value is not None and value != ""


def _check_spelling(
    spec: FormatSpec | None,
    formats: list[FormatSpec],
    found: list[str],
    rows: Sequence[Mapping[str, Any]],
    mapping: Mapped,
    wanted: DataKind | None,
    file: str,
) -> None:
    """Refuse a column that, spelt as we do, would make the file another one than it was taken for."""
    others = [other for other in formats if other.kind not in _EXTENDED or other.kind is wanted]
    known = _COMMON_NAMES | {name for one in [spec] if one is not None for name in one.columns()}
    names = sorted({*_NAMES, *(name for other in others for need in other.required for name in need.split("|"))})
    for column in found:
        close = [] if column in known else difflib.get_close_matches(column, names, 2, cutoff=0.8)
        for meant in close:
            if meant in found or meant in mapping:
                continue
            respelt = [meant if name == column else name for name in found]
            if any(_outranks(other, spec) and other.matches(respelt, rows) for other in others if other.needs(meant)):
                raise DataError(
                    f"a column is named almost like '{meant}'",
                    file=file,
                    field=column,
                    value=f"columns {', '.join(found)}",
                    fix=f"rename it, or set data.columns={{{meant}: {column}}}; if it is something else, "
                    f"set data.columns={{{meant}: null}}",
                )


def _check_attributes(found: list[str], rating_names: Collection[str], file: str) -> None:
    """Refuse a file that has columns for some of the attributes that are to be rated, and not for others."""
    missing = [name for name in rating_names if name not in found]
    if missing and len(missing) < len(rating_names):
        there = ", ".join(name for name in rating_names if name in found)
        raise DataError(
            "attributes that the method learns have no column",
            file=file,
            field=", ".join(missing),
            value=f"columns {', '.join(found)}",
            fix=f"set data.columns={{{missing[0]}: <your column>}}, or let the method learn {there} only",
        )


def _check_unread(
    spec: FormatSpec,
    conversational: bool,
    found: list[str],
    rows: Sequence[Mapping[str, Any]],
    mapping: Mapped,
    wanted: DataKind | None,
    file: str,
) -> None:
    """Refuse to pass over a prompt, or responses, that seem to stand under another name."""
    suggested = suggest_mapping(found, rows)
    hides_prompt = "prompt" in spec.optional and not conversational and "prompt" not in found
    hides_responses = spec.kind is DataKind.PROMPTS and wanted not in (None, DataKind.PROMPTS)
    if not suggested or set(suggested) & set(mapping) or not (hides_prompt or hides_responses):
        return
    without = in_words(dict.fromkeys(suggested))
    raise DataError(
        f"the {'prompt' if hides_prompt else 'response'} seems to stand in a column of another name",
        file=file,
        field=", ".join(suggested.values()),
        value=f"columns {', '.join(found)}",
        fix=f"set {in_words(suggested)}; if it is something else, set {without}",
    )


def _outranks(one: FormatSpec, other: FormatSpec | None) -> bool:
    if other is None or set(other.required) < set(one.required):
        return True
    return one.kind in _PREFERENCES and other.kind not in _PREFERENCES


def _unknown_columns(
    found: list[str], rows: Sequence[Mapping[str, Any]], name: str | None, file: str, formats: list[FormatSpec]
) -> DataError:
    def distance(spec: FormatSpec) -> float:
        return len(spec.missing(found)) / len(spec.required)

    if name is not None:
        missing = ", ".join(_BY_NAME[name].missing(found))
        what = f"the rows are not of the data.format '{name}'"
        why = f"it needs {missing}" if missing else "its columns hold other things"
        fix = f"{why}; leave data.format out to have the format recognised (--data.format null)"
    else:
        nearest = min(formats, key=lambda spec: (distance(spec), spec.fits is not None))
        what = "the columns are of no format that lit-align reads"
        suggested = suggest_mapping(found, rows)
        lacking = f"'{nearest.name}' lacks only {', '.join(nearest.missing(found))}. " if distance(nearest) < 1 else ""
        mapped = in_words(suggested) if suggested else "data.columns={prompt: <your column>, ...}"
        lines = [f"    {spec.name}: {', '.join(spec.required)}" for spec in formats]
        fix = f"{'' if suggested else lacking}name columns with {mapped}; accepted are\n" + "\n".join(lines)
    value = f"columns {', '.join(found) or '(none)'}"
    return DataError(what, file=file, field=", ".join(found), value=value, fix=fix)


def _are_messages(rows: Sequence[Mapping[str, Any]], column: str) -> bool:
    values = [row[column] for row in rows if row.get(column) is not None]
    return most(isinstance(value, list | dict) or is_json_list(value) for value in values)
