"""Files, folders and names that cannot be read: each an error that names the place and a fix."""

from __future__ import annotations

import gzip
import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from lit_align.core.errors import ConfigError, DataError
from lit_align.data.readers import read_rows
from tests.data.reading import PAIR, check, load, write_jsonl

LINE = json.dumps(PAIR).encode()
LFS = b"version https://git-lfs.github.com/spec/v1\n"
TWO = LINE + b"\n" + LINE + b"\n"
FILES = {
    "an empty file": ("a.jsonl", b"", "no rows", None, "", "0 rows"),
    "an empty gzip file": ("a.jsonl.gz", gzip.compress(b""), "no rows", None, "", "0 rows"),
    "a file of blank lines": ("a.jsonl", b"\n\n  \n", "no rows", None, "", "0 rows"),
    "an empty JSON file": ("a.json", b" ", "no rows", None, "", "0 rows"),
    "an empty JSON list": ("a.json", b"[]", "no rows", None, "", "0 rows"),
    "JSON lines as Python prints them": ("a.jsonl", str(PAIR).encode(), "invalid JSON", 1, "", "json.dumps(row)"),
    "JSON lines with commas": ("a.jsonl", LINE + b",\n" + LINE, "invalid JSON", 1, "", "without a comma behind it"),
    "JSON over several lines": ("a.jsonl", b"{\n" + LINE[1:], "invalid JSON", 1, "", "rename the file to end in .json"),
    "JSON of columns": ("a.json", b'{"prompt": {"0": "a"}, "chosen": {"0": "b"}}', "columns, not", None, "", "pandas"),
    "JSON of lists": ("a.json", b'{"prompt": ["a"], "chosen": ["b"]}', "columns, not", None, "", "orient="),
    "gzip under another name": ("a.jsonl", gzip.compress(TWO), "is gzip, not what its name", None, "", "unpack"),
    "a spreadsheet under another name": ("a.csv", b"PK\x03\x04rest", "zip archive or a spreadsheet", None, "", "PK"),
    "Parquet under another name": ("a.json", b"PAR1rest", "is Parquet, not what", None, "", "PAR1rest"),
    "a pointer of Git LFS": ("a.jsonl", LFS, "LFS", None, "", "git lfs pull"),
    "a pointer to Parquet": ("a.parquet", LFS, "LFS", None, "", "git lfs pull"),
    "a page of the web": ("a.jsonl", b"<!DOCTYPE html><html>404</html>", "page of the web", None, "", "resolve"),
    "CSV with semicolons": ("a.csv", b"prompt;chosen;rejected\na;b;c\n", "separated by commas", 1, "", "prompt;chosen"),
    "CSV with tabs": ("a.csv", b"\nprompt\tchosen\na\tb\n", "not separated by commas", 2, "", r"prompt\tchosen"),
    "CSV with the index of pandas": ("a.csv", b",prompt,chosen\n0,a,b\n", "no name", 1, "", "index=False"),
    "an unknown ending": ("a.txt", TWO, "unknown kind", None, "", "a.txt"),
    "not gzip": ("a.jsonl.gz", TWO, "not gzip", 1, "", "gzip"),
    "gzip that is cut off": ("a.jsonl.gz", gzip.compress(TWO)[:-12], "cut off", None, "", "marker"),
    "invalid UTF-8": ("a.jsonl", TWO + b'{"prompt": "caf\xe9"}', "not valid UTF-8", 3, "", r"caf\xe9"),
    "UTF-16": ("a.jsonl", TWO.decode().encode("utf-16"), "is UTF-16, by its byte order mark", 1, "", r"\xff\xfe"),
    "UTF-16 of CSV": ("a.csv", "prompt,chosen\n".encode("utf-16"), "is UTF-16, by its byte order", 1, "", r"\xff\xfe"),
    "UTF-16 without a mark": ("a.jsonl", TWO.decode().encode("utf-16-le"), "zero bytes, as UTF-16", 1, "", r"{\x00"),
    "UTF-32": ("a.json", TWO.decode().encode("utf-32"), "is UTF-32, by its byte order mark", 1, "", r"\xff\xfe\x00"),
    "invalid JSON": ("a.jsonl", TWO + b'{"prompt": oops}\n', "invalid JSON at column 12", 3, "", "oops"),
    "single quotes": ("a.jsonl", b"{'prompt': 'x'}\n", "invalid JSON", 1, "", "prompt"),
    "a line that is cut off": ("a.jsonl", TWO + LINE[:45], "Unterminated string", 3, "", "Fi"),
    "two objects on a line": ("a.jsonl", LINE + LINE, "Extra data", 1, "", "prompt"),
    "a list on a line": ("a.jsonl", TWO + b'["a", "b"]', "not an object", 3, "", "['a', 'b']"),
    "a JSON list named jsonl": ("a.jsonl", b"[" + LINE + b"]", "not an object", 1, "", "How are you?"),
    "a text on a line": ("a.jsonl", TWO + b'"text"', "not an object", 3, "", "text"),
    "a number on a line": ("a.jsonl", TWO + b"5", "not an object", 3, "", "5"),
    "an empty object": ("a.jsonl", TWO + b"{}", "no fields", 3, "", "{}"),
    "a field twice": ("a.jsonl", TWO + b'{"prompt": "a", "prompt": "b"}', "field twice", 3, "prompt", '"b"'),
    "nesting without end": ("a.jsonl", b'{"a":' * 10**5, "too large", 1, "", "recursion"),
    "a number without end": ("a.jsonl", b'{"a":' + b"1" * 5000 + b"}", "too large", 1, "", "digits"),
    "a JSON object without rows": ("a.json", b'{"rows":\n [1]}', "no list of rows", None, "", "rows"),
    "data that are no list": ("a.json", b'{"data":\n {"a": 1}}', "no list of rows", None, "", "data"),
    "an element that is no object": ("a.json", b"[" + LINE + b", 3]", "not an object", 2, "", "3"),
    "an invalid JSON document": ("a.json", b"[" + LINE + b",]", "invalid JSON at line 1", None, "", ","),
    "a line of CSV with more cells": (
        "a.csv", b"prompt,chosen,rejected\na,b,c\nd,e,f,g\n", "a line has 4 cells", 3, "", "g",
    ),
    "a line of CSV with fewer cells": ("a.csv", b"prompt,chosen,rejected\na,b\n", "a line has 2 cells", 2, "", "b"),
    "a column of CSV twice": ("a.csv", b"prompt,chosen,chosen\na,b,c\n", "name of another", 1, "chosen", "chosen"),
    "a column of CSV without a name": ("a.csv", b"prompt,,chosen\na,b,c\n", "no name", 1, "", "prompt"),
    "a quote that is not closed": ("a.csv", b'prompt,chosen,rejected\n"a,b,c\n', "not valid CSV", 2, "", "end of data"),
    "CSV in Latin-1": ("a.csv", b"prompt,chosen,rejected\na,\xe9,c\n", "not valid UTF-8", 2, "", r"\xe9"),
    "CSV of names only": ("a.csv", b"prompt,chosen,rejected\n", "no rows", None, "", "0 rows"),
    "CSV without names": ("a.csv", b"Hi,Hello,Go\nBye,Bye,No\n", "no format", None, "Hi, Hello, Go", "Hello"),
    "an empty cell": ("a.csv", b"prompt,chosen,rejected\na,b,c\nd,,f\n", "null", 3, "chosen", "null"),
    "Parquet that is something else": ("a.parquet", TWO, "Parquet file cannot be read", 1, "", "magic"),
    "an empty Parquet file": ("a.parquet", b"", "Parquet file cannot be read", 1, "", "0 bytes"),
}  # fmt: skip


@pytest.mark.parametrize("case", FILES.values(), ids=FILES.keys())
def test_a_broken_file_is_an_error_that_names_it(case, tmp_path: Path):
    name, content, what, row, field, value = case
    path = tmp_path / name
    path.write_bytes(content)
    with pytest.raises(DataError) as caught:
        load(path)
    row = caught.value.row if name.endswith(".gz") else row  # how far a cut file can be read is gzip's affair
    check(caught.value, path, what, row, field, value)


def test_errors_of_files_pass_through_the_cache_of_datasets(tmp_path: Path):
    path = tmp_path / "rows.jsonl"
    path.write_bytes(TWO + b"{oops\n")
    for _ in range(2):
        with pytest.raises(DataError, match="invalid JSON") as caught:
            read_rows(path, cache_dir=tmp_path / "cache")
        assert caught.value.row == 3


def test_parquet_that_is_cut_off(tmp_path: Path):
    path = tmp_path / "rows.parquet"
    pq.write_table(pa.Table.from_pylist([PAIR] * 10), path)
    path.write_bytes(path.read_bytes()[:-20])
    with pytest.raises(DataError) as caught:
        load(path)
    check(caught.value, path, "Parquet file cannot be read", 1, "", "magic")


def test_a_file_without_permission(tmp_path: Path, monkeypatch):
    path = write_jsonl(tmp_path / "rows.jsonl", [PAIR])

    def refuse(self, *args, **kwargs):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "open", refuse)
    with pytest.raises(DataError) as caught:
        load(path)
    check(caught.value, path, "cannot be opened", None, "", "Permission denied")


def test_a_missing_file_suggests_its_neighbour(tmp_path: Path):
    write_jsonl(tmp_path / "train.jsonl", [PAIR])
    with pytest.raises(DataError) as caught:
        load(tmp_path / "trian.jsonl")
    check(caught.value, tmp_path / "trian.jsonl", "no such file", None, "", "1 entries")
    assert f"did you mean '{tmp_path / 'train.jsonl'}'" in str(caught.value)


def test_a_link_that_leads_nowhere(tmp_path: Path):
    (tmp_path / "rows.jsonl").symlink_to(tmp_path / "gone.jsonl")
    with pytest.raises(DataError) as caught:
        load(tmp_path / "rows.jsonl")
    check(caught.value, tmp_path / "rows.jsonl", "a link leads nowhere", None, "", "gone.jsonl")


def test_an_address_on_the_web():
    with pytest.raises(DataError) as caught:
        load("https://example.org/rows.jsonl")
    check(caught.value, "https://example.org/rows.jsonl", "addresses on the web are not read", None, "", "download")


def test_a_missing_folder(tmp_path: Path):
    with pytest.raises(DataError) as caught:
        load(tmp_path / "nowhere" / "train.jsonl")
    check(caught.value, tmp_path / "nowhere", "no such file", None, "", "no folder")


def test_a_name_that_is_neither_here_nor_on_the_hub():
    with pytest.raises(DataError, match="neither a file or folder here"):
        load("nobody/nothing")


@pytest.mark.parametrize("files", [[], ["notes.txt", ".hidden.jsonl"]], ids=["empty", "other files"])
def test_a_folder_without_data(files: list[str], tmp_path: Path):
    for name in files:
        (tmp_path / name).write_text("x")
    with pytest.raises(DataError) as caught:
        load(tmp_path)
    check(caught.value, tmp_path, "no data files", None, "", files[0] if files else "nothing")


def test_a_split_that_is_not_there(tmp_path: Path):
    for split in ("train", "test"):
        write_jsonl(tmp_path / f"{split}.jsonl", [PAIR])
    with pytest.raises(DataError, match="no split 'tset'") as caught:
        load(f"{tmp_path}@tset")
    assert "did you mean 'test'" in str(caught.value)


def test_a_split_of_a_file(tmp_path: Path):
    path = write_jsonl(tmp_path / "rows.jsonl", [PAIR])
    with pytest.raises(ConfigError, match="no splits"):
        load(f"{path}@train")


def test_a_damaged_saved_data_set(tmp_path: Path):
    (tmp_path / "state.json").write_text('{"_data_files": [{"filename": "gone.arrow"}]}')
    (tmp_path / "dataset_info.json").write_text("{}")
    with pytest.raises(DataError) as caught:
        load(tmp_path)
    check(caught.value, tmp_path, "saved data set cannot be read", None, "", "_")
