"""Split preference rows into a part to learn from and a part to judge by; no prompt is in both.

python examples/course/split.py ROWS.jsonl[.gz] OUT [SHARE] [PROMPT_COLUMN]

writes OUT/train.jsonl, OUT/heldout.jsonl and OUT/prompts.jsonl (the held-out prompts, each once).
"""

from __future__ import annotations

import gzip
import hashlib
import json
import sys
from pathlib import Path


def is_held_out(prompt: str, share: float) -> bool:
    """Whether a prompt is kept from training: decided by its text, so that rows added later move no other row."""
    return int.from_bytes(hashlib.sha256(prompt.encode()).digest()[:8], "big") < share * 2**64


def main(source: str, out: str, share: str = "0.2", column: str = "question") -> None:
    """Split one file."""
    opened = gzip.open if source.endswith(".gz") else open
    with opened(source, "rt", encoding="utf-8") as lines:
        rows = [json.loads(line) for line in lines if line.strip()]
    if any(column not in row for row in rows):
        sys.exit(f"{source}: not every row has a column {column!r}; give the name of the prompts' column as PROMPT")
    # As JSON, since a prompt may be a list of messages.
    prompts = [json.dumps(row[column], ensure_ascii=False) for row in rows]
    apart = [is_held_out(prompt, float(share)) for prompt in prompts]
    held_out = dict.fromkeys(prompt for prompt, out_of_sight in zip(prompts, apart, strict=True) if out_of_sight)
    parts = {
        "train": [row for row, out_of_sight in zip(rows, apart, strict=True) if not out_of_sight],
        "heldout": [row for row, out_of_sight in zip(rows, apart, strict=True) if out_of_sight],
        "prompts": [{"prompt": json.loads(prompt)} for prompt in held_out],
    }
    if not parts["train"] or not parts["heldout"]:
        sys.exit(f"{source}: {len(rows)} rows are too few to hold a share of {share} of their prompts out")
    Path(out).mkdir(parents=True, exist_ok=True)
    for name, part in parts.items():
        text = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in part)
        Path(out, f"{name}.jsonl").write_text(text, encoding="utf-8")
    counts = [len(part) for part in parts.values()]
    print(f"{len(rows)} rows: {counts[0]} to learn from, {counts[1]} held out, with {counts[2]} prompts")


if __name__ == "__main__":
    main(*sys.argv[1:])
