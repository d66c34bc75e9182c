"""Files of rows: one iterator for each format, which names the file and the row of whatever it cannot read."""

from __future__ import annotations

import codecs
import csv
import gzip
import json
import re
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from lit_align.core.errors import DataError

Row = dict[str, Any]

SUFFIXES = (".jsonl", ".jsonl.gz", ".json", ".json.gz", ".csv", ".csv.gz", ".parquet")
_LONGEST_CELL = 2**31 - 1
_BYTE_ORDER_MARKS = {
    codecs.BOM_UTF32_LE: "UTF-32",
    codecs.BOM_UTF32_BE: "UTF-32",
    codecs.BOM_UTF16_LE: "UTF-16",
    codecs.BOM_UTF16_BE: "UTF-16",
}
"""The longer ones first: one begins like a shorter one."""
_PACKED = "unpack or convert it, or give it the ending of its kind"
_OTHER_KINDS = {
    b"\x1f\x8b": ("gzip", _PACKED),
    b"PAR1": ("Parquet", _PACKED),
    b"PK\x03\x04": ("a zip archive or a spreadsheet", _PACKED),
    b"\x28\xb5\x2f\xfd": ("Zstandard", _PACKED),
    b"version https://git-lfs": ("a pointer of Git LFS", "get the file itself with `git lfs pull`"),
    b"<!DOCTYPE": ("a page of the web", "download the file itself, by its raw or resolve address"),
    b"<html": ("a page of the web", "download the file itself, by its raw or resolve address"),
}
"""What other files begin with that are often given the name of a data file."""
_TRUNCATED = "download or compress the file again"


def suffix_of(path: Path) -> str | None:
    """Which of the known endings a file has; None for any other."""
    name = path.name.lower()
    return next((suffix for suffix in SUFFIXES if name.endswith(suffix)), None)


def iterate_file(path: Path) -> Iterator[tuple[int, Row]]:
    """Yield the rows of a file with their 1-based numbers: lines of JSON lines and CSV, otherwise elements.

    Raises:
        DataError: for a file, or a row of it, that cannot be read, and for a file without rows.
    """
    suffix = suffix_of(path)
    if suffix is None:
        fix = f"convert it to one of {', '.join(SUFFIXES)}, or rename it if it is one of them"
        raise DataError("a file of an unknown kind", file=str(path), value=path.name, fix=fix)
    readers = {".jsonl": _json_lines, ".json": _json, ".csv": _csv, ".parquet": _parquet}
    rows = 0
    for number, row in readers[suffix.removesuffix(".gz")](path):
        rows += 1
        yield number, row
    if not rows:
        raise DataError("a file has no rows", file=str(path), value="0 rows", fix="write some, or name another file")


def _raw_lines(path: Path) -> Iterator[tuple[int, bytes]]:
    """The lines of a file, unpacked if its name says so."""
    number = 0
    try:
        with gzip.open(path) if path.name.lower().endswith(".gz") else path.open("rb") as stream:
            for number, line in enumerate(stream, start=1):
                yield number, line
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        what = "a compressed file is cut off" if isinstance(error, EOFError) else "a file is not gzip, or damaged"
        raise DataError(what, file=str(path), row=number + 1, value=str(error), fix=_TRUNCATED) from None
    except OSError as error:
        fix = "check the path and its permissions"
        raise DataError(
            "a file cannot be opened", file=str(path), value=error.strerror or str(error), fix=fix
        ) from None


def _lines(path: Path) -> Iterator[tuple[int, str]]:
    """The lines of a text file, as UTF-8."""
    for number, raw in _raw_lines(path):
        if number == 1:
            _check_start(raw, path)
        try:
            yield number, raw.decode("utf-8-sig" if number == 1 else "utf-8")
        except UnicodeDecodeError as error:
            start = error.start
            raise DataError(
                f"a line is not valid UTF-8, at its byte {start + 1}",
                file=str(path),
                row=number,
                value=raw[max(0, start - 20) : start + 20],
                fix="save the file as UTF-8, for instance with `iconv -f latin1 -t utf-8`",
            ) from None


def _check_start(start: bytes, path: Path) -> None:
    """Refuse a file that is something else than its name says, or in UTF-16, as some editors and spreadsheets save."""
    for beginning, (kind, fix) in _OTHER_KINDS.items():
        if start.startswith(beginning):
            raise DataError(f"a file is {kind}, not what its name says", file=str(path), value=start[:40], fix=fix)
    encoding = next((name for mark, name in _BYTE_ORDER_MARKS.items() if start.startswith(mark)), None)
    if encoding is None and b"\0" not in start:
        return
    what = f"a file is {encoding}, by its byte order mark" if encoding else "a file holds zero bytes, as UTF-16 does"
    fix = f"save it as UTF-8: iconv -f {encoding or 'UTF-16LE'} -t UTF-8 '{path.name}' > 'utf8-{path.name}'"
    raise DataError(what, file=str(path), row=1, value=start[:40], fix=fix)


def _json_lines(path: Path) -> Iterator[tuple[int, Row]]:
    """Rows of the lines that are not blank; these count all the same."""
    for number, line in _lines(path):
        if line.strip():
            yield number, _as_row(_parse(line, path, number), path, number)


def _json(path: Path) -> Iterator[tuple[int, Row]]:
    """A list of objects, or `{"data": [...]}`, read whole; JSON lines under this name are read as such."""
    first = list(_first_lines(path))
    if first and first[0].lstrip().startswith("{") and _is_json(first[0]):
        content = json.loads(first[0])
        alone = len(first) == 1
        if alone and _is_table(content):
            fix = "write rows: with pandas, to_json(path, orient='records', lines=True) and a name in .jsonl"
            raise DataError("a JSON file holds columns, not rows", file=str(path), value=content, fix=fix)
        if not (alone and isinstance(content.get("data"), list)):
            yield from _json_lines(path)
            return
    text = "".join(line for _, line in _lines(path))
    if not text.strip():
        return
    content = _parse(text, path, None)
    if isinstance(content, dict):
        content = content.get("data")
    if not isinstance(content, list):
        fix = 'write a list of objects, [{...}, {...}], or an object {"data": [...]}'
        raise DataError("a JSON file holds no list of rows", file=str(path), value=text[:80], fix=fix)
    for number, value in enumerate(content, start=1):
        yield number, _as_row(value, path, number)


def _is_table(content: Row) -> bool:
    """Whether an object has the rows of a column in each field, as pandas writes: in a list, or under their numbers."""

    def is_column(value: Any) -> bool:
        if isinstance(value, dict):
            return "0" in value
        return isinstance(value, list) and bool(value) and not isinstance(value[0], dict)

    return all(map(is_column, content.values()))


def _first_lines(path: Path) -> Iterator[str]:
    """The first two lines of a file that are not blank."""
    found = 0
    for _, line in _lines(path):
        if line.strip():
            found += 1
            yield line
        if found == 2:
            return


def _is_json(text: str) -> bool:
    try:
        json.loads(text)
    except (ValueError, RecursionError):
        return False
    return True


def _parse(text: str, path: Path, row: int | None) -> Any:
    def unique(pairs: list[tuple[str, Any]]) -> Row:
        found = dict(pairs)
        if len(found) < len(pairs):
            names = [name for name, _ in pairs]
            twice = next(name for name in names if names.count(name) > 1)
            fix = "give each field of an object a name of its own"
            raise DataError("an object has a field twice", file=str(path), row=row, field=twice, value=text, fix=fix)
        return found

    try:
        return json.loads(text, object_pairs_hook=unique)
    except DataError:
        raise
    except json.JSONDecodeError as error:
        where = f"column {error.colno}" if row is not None else f"line {error.lineno}, column {error.colno}"
        start = max(0, error.pos - 30)
        what = f"invalid JSON at {where}: {error.msg}"
        shown = text[start : error.pos + 30]
        fix = _json_fix(text.strip()) if row is not None else "write one JSON document"
        raise DataError(what, file=str(path), row=row, value=shown, fix=fix) from None
    except (ValueError, RecursionError) as error:
        fix = "shorten the number, or flatten the nesting"
        raise DataError("JSON that is too large to read", file=str(path), row=row, value=str(error), fix=fix) from None


def _json_fix(line: str) -> str:
    """What to do about a line that is not JSON, by the mistakes that are made most often."""
    if line.startswith(("{'", "[{'")):
        return "write JSON, with double quotes (json.dumps(row)), not what Python prints"
    if line in ("{", "["):
        return "write one complete JSON object per line, or rename the file to end in .json if it is one document"
    if line.endswith("},"):
        return "write one complete JSON object per line, without a comma behind it"
    return "write one complete JSON object per line"


def _as_row(value: Any, path: Path, number: int) -> Row:
    if not isinstance(value, dict):
        hint = "; for a list of rows, name the file .json" if isinstance(value, list) else ""
        fix = f'write an object like {{"prompt": "...", "chosen": "...", "rejected": "..."}}{hint}'
        raise DataError("a row is not an object", file=str(path), row=number, value=value, fix=fix)
    if not value:
        raise DataError("a row has no fields", file=str(path), row=number, value="{}", fix="fill it in, or remove it")
    return value


def _csv(path: Path) -> Iterator[tuple[int, Row]]:
    """Rows under the names of the first line; an empty cell is null, and blank lines are passed over."""
    csv.field_size_limit(_LONGEST_CELL)
    reader = csv.reader((line for _, line in _lines(path)), strict=True)
    header: list[str] | None = None
    start = 1
    try:
        for cells in reader:
            blank = len(cells) < 2 and not "".join(cells).strip()
            if header is None and not blank:
                header = _csv_header(cells, path, start)
            elif header is not None and not blank:
                yield start, _csv_row(header, cells, path, start)
            start = reader.line_num + 1
    except csv.Error as error:
        fix = "put cells with commas, quotes or line ends in double quotes, and double the quotes in them"
        raise DataError("a line is not valid CSV", file=str(path), row=start, value=str(error), fix=fix) from None


def _csv_header(cells: list[str], path: Path, number: int) -> list[str]:
    names = [cell.strip() for cell in cells]
    if len(names) == 1 and re.search(r"\w[;\t|]\w", names[0]):
        fix = "save it with commas between the cells, and cells that hold commas in double quotes"
        raise DataError("a CSV file is not separated by commas", file=str(path), row=number, value=names[0], fix=fix)
    for name in names:
        if not name or names.count(name) > 1:
            what = "a column of the first line has the name of another" if name else "a column has no name"
            fix = "write the names of the columns in the first line, each once"
            fix = fix if name else f"{fix}; pandas leaves out the index with to_csv(..., index=False)"
            raise DataError(what, file=str(path), row=number, field=name, value=names, fix=fix)
    return names


def _csv_row(header: list[str], cells: list[str], path: Path, number: int) -> Row:
    if len(cells) != len(header):
        what = f"a line has {len(cells)} cells, the first line has {len(header)}"
        fix = "put cells that hold commas or line ends in double quotes; write as many cells as names"
        raise DataError(what, file=str(path), row=number, value=cells, fix=fix)
    return {name: cell if cell else None for name, cell in zip(header, cells, strict=True)}


def _parquet(path: Path) -> Iterator[tuple[int, Row]]:
    number = 0
    try:
        with path.open("rb") as stream:
            start = stream.read(40)
        if not start.startswith(b"PAR1"):
            _check_start(start, path)
        with pq.ParquetFile(path) as file:
            for batch in file.iter_batches(batch_size=256):
                for row in batch.to_pylist():
                    number += 1
                    yield number, without_nulls(row)
    except (pa.ArrowException, OSError) as error:
        value = str(error).splitlines()[0] if str(error) else type(error).__name__
        fix = f"{_TRUNCATED}; check its permissions"
        raise DataError("a Parquet file cannot be read", file=str(path), row=number + 1, value=value, fix=fix) from None


def without_nulls(row: Row) -> Row:
    """A row without the nulls that Arrow writes into objects which lack a key that others have."""
    return {name: _strip(value) for name, value in row.items()}


def _strip(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _strip(part) for name, part in value.items() if part is not None}
    return [_strip(part) for part in value] if isinstance(value, list) else value
