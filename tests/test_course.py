"""The course as a script: rows are split by prompt, and the whole goes from raw rows to a report."""

from __future__ import annotations

import gzip
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

COURSE = Path(__file__).parents[1] / "examples" / "course"


def split(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, COURSE / "split.py", *arguments], capture_output=True, text=True, check=False
    )


def rows_of(path: Path) -> list[dict]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def write(path: Path, rows: list[dict]) -> str:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return str(path)


def test_no_prompt_is_on_both_sides_and_no_row_is_lost(tmp_path):
    rows = [{"question": f"q{number // 2}", "overall_response": 1 + number % 2} for number in range(200)]
    assert split(write(tmp_path / "rows.jsonl", rows), str(tmp_path / "data")).returncode == 0
    train, held_out = (rows_of(tmp_path / "data" / f"{part}.jsonl") for part in ("train", "heldout"))
    assert sorted(train + held_out, key=str) == sorted(rows, key=str)
    assert not {row["question"] for row in train} & {row["question"] for row in held_out}
    assert 20 <= len(held_out) <= 60
    prompts = [row["prompt"] for row in rows_of(tmp_path / "data" / "prompts.jsonl")]
    assert prompts == list(dict.fromkeys(row["question"] for row in held_out))


def test_rows_added_later_move_no_other_row(tmp_path):
    rows = [{"question": f"q{number}"} for number in range(100)]
    for name, part in (("few", rows[:50]), ("all", rows)):
        split(write(tmp_path / f"{name}.jsonl", part), str(tmp_path / name))
    few, everything = (rows_of(tmp_path / name / "heldout.jsonl") for name in ("few", "all"))
    assert few == [row for row in everything if row in rows[:50]]


def test_prompts_may_be_messages(tmp_path):
    prompts = [[{"role": "user", "content": f"\u00fc{number}"}] for number in range(50)]
    split(write(tmp_path / "rows.jsonl", [{"prompt": p} for p in prompts]), str(tmp_path / "data"), "0.5", "prompt")
    assert all(row["prompt"] in prompts for row in rows_of(tmp_path / "data" / "prompts.jsonl"))


def test_a_missing_column_is_named(tmp_path):
    done = split(write(tmp_path / "rows.jsonl", [{"prompt": "a"}]), str(tmp_path / "data"))
    assert done.returncode == 1
    assert "column 'question'" in done.stderr


def test_a_folder_holds_one_course(tmp_path):
    """Steps that are done would otherwise be taken for those of another model."""
    settings = {"DATA": str(tmp_path / "rows.jsonl"), "OUT": str(tmp_path / "course"), "LIT_ALIGN": "true",
                "PYTHON": "true"}  # fmt: skip
    for policy, status in (("one", 0), ("one", 0), ("other", 2)):
        done = subprocess.run(["sh", COURSE / "run.sh"], env=os.environ | settings | {"POLICY": policy},
                              capture_output=True, text=True, check=False)  # fmt: skip
        assert done.returncode == status, done.stderr
    assert "holds another course" in done.stderr


@pytest.mark.slow
def test_from_raw_rows_to_a_report(tmp_path, shared_dir):
    with gzip.open(shared_dir / "data" / "align_anything_style.jsonl.gz", "rt", encoding="utf-8") as lines:
        (tmp_path / "rows.jsonl").write_text("".join(line for line, _ in zip(lines, range(80), strict=False)))
    program = tmp_path / "lit-align"
    program.write_text(f'#!/bin/sh\nexec "{sys.executable}" -m lit_align "$@"\n')
    program.chmod(0o755)
    out = tmp_path / "course"
    settings = {"POLICY": str(shared_dir / "models" / "stories260k"), "DATA": str(tmp_path / "rows.jsonl"),
                "CHAT_TEMPLATE": "transcript", "OUT": str(out), "LIT_ALIGN": str(program), "PYTHON": sys.executable,
                "MAX_LENGTH": "192", "LIT_ALIGN_CACHE": str(tmp_path / "cache")}  # fmt: skip
    subprocess.run(["sh", COURSE / "run.sh"], check=True, cwd=tmp_path, env=os.environ | settings)
    found = json.loads((out / "policies" / "evaluation.json").read_text(encoding="utf-8"))
    rates = next(table for table in found["tables"] if table["title"] == "Win rates")
    assert {row[0] for row in rates["rows"]} == {"trained", "untrained"}
    assert (out / "report.html").stat().st_size > 50_000
    # Once more: everything is there, so only the page is made again.
    again = subprocess.run(["sh", COURSE / "run.sh"], check=True, cwd=tmp_path, env=os.environ | settings,
                           capture_output=True, text=True)  # fmt: skip
    assert "==" not in again.stdout
