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
        rows = [json.loads(line) for line in lines]
    held_out = [row for row in rows if is_held_out(str(row[column]), float(share))]
    prompts = [{"prompt": prompt} for prompt in dict.fromkeys(str(row[column]) for row in held_out)]
    parts = {
        "train": [row for row in rows if not is_held_out(str(row[column]), float(share))],
        "heldout": held_out,
        "prompts": prompts,
    }
    Path(out).mkdir(parents=True, exist_ok=True)
    for name, part in parts.items():
        text = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in part)
        Path(out, f"{name}.jsonl").write_text(text, encoding="utf-8")
    print(f"{len(rows)} rows: {len(parts['train'])} to learn from, {len(held_out)} held out, {len(prompts)} prompts")


if __name__ == "__main__":
    main(*sys.argv[1:])
