"""Rows of every kind of data, all about the same, as files of JSON lines."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import lit_align.callbacks as callbacks
from lit_align.core.batch import DataKind
from lit_align.core.capabilities import Capability

WORDS = ["river", "stone", "a small boat", "morning", "the old bridge", "rain", "lantern", "far away"]


def _pair(i: int) -> dict[str, Any]:
    return {
        "prompt": f"Tell me about {WORDS[i % 8]}: ",
        "chosen": f"It is {WORDS[(i + 3) % 8]} and number {i}.",
        "rejected": "No. " * (1 + 5 * (i % 3)) + str(i),
        "score_chosen": 0.6 + 0.02 * i,
        "score_rejected": 0.3,
        "timestamp": i % 4,
        "target": f"In short: {WORDS[(i + 5) % 8]}.",
        "weight": 0.5 + i % 2,
        "chosen_safe": i % 4 > 0,
        "rejected_safe": False,
        "label_probability": 0.55 + 0.02 * i,
        "p_win_chosen": 0.6 + 0.02 * (i % 20),
        "p_win_rejected": 0.45 - 0.01 * i,
        "source": "game" if i % 3 == 1 else "human",
    }


def _ranked(i: int) -> dict[str, Any]:
    pair = _pair(i)
    responses = [pair["rejected"], pair["chosen"], f"Perhaps {i}.", f"I know {WORDS[i % 8]}."][: 2 + i % 3]
    return {"prompt": pair["prompt"], "responses": responses, "scores": [0.1, 0.9, 0.5, 0.7][: 2 + i % 3]}


def _scored(i: int) -> dict[str, Any]:
    pair = _pair(i)
    return {"prompt": pair["prompt"], "completion": pair["chosen" if i % 2 else "rejected"], "score": 0.04 * (i + 1)}


def _judged(i: int) -> dict[str, Any]:
    pair, good = _pair(i), i % 2 == 1
    return {
        "prompt": pair["prompt"],
        "completion": pair["chosen" if good else "rejected"],
        "judgment": "Well said." if good else "It says nothing.",
        "label": good,
    }


def _paraphrased(i: int) -> dict[str, Any]:
    pair = _pair(i)
    return {"prompt": pair["prompt"], "paraphrase": f"What of {WORDS[i % 8]}? ", "completion": pair["chosen"]}


def _contextual(i: int) -> dict[str, Any]:
    pair = _pair(i)
    context = "Be brief. " * (1 + i % 2) + f"You love {WORDS[(i + 3) % 8]}.\n"
    return {"prompt": pair["prompt"], "context": context, "completion": pair["chosen"]}


def _steps(i: int) -> dict[str, Any]:
    steps = [f"Take {WORDS[i % 8]}.", f"Add {i} to it.", "So it is done."][: 1 + i % 3]
    return {"prompt": _pair(i)["prompt"], "completions": steps, "labels": [(i + k) % 3 > 0 for k in range(len(steps))]}


def _rated(i: int) -> dict[str, Any]:
    names = ("helpfulness", "correctness", "coherence", "complexity", "verbosity")
    ratings = {name: None if (i + k) % 7 == 0 else (i + k) % 5 for k, name in enumerate(names)}
    pair = _pair(i)
    return {"prompt": pair["prompt"], "response": pair["chosen" if i % 2 else "rejected"], **ratings}


WRITERS = {
    DataKind.PAIRS: _pair,
    DataKind.RANKED: _ranked,
    DataKind.SCORED: _scored,
    DataKind.JUDGED: _judged,
    DataKind.PARAPHRASED: _paraphrased,
    DataKind.CONTEXTUAL: _contextual,
    DataKind.STEPS: _steps,
    DataKind.RATED: _rated,
}
"""Kind: what writes row i of it."""
CONVERT = {DataKind.UNPAIRED: "pairs_to_unpaired", DataKind.DEMONSTRATIONS: "pairs_to_chosen"}
"""Kinds that are made of pairs: by which conversion."""


def loop_of(config: dict[str, Any]) -> str | None:
    """File of the callback of a configuration that makes its training data; None: they are given."""
    for callback in config["trainer"].get("callbacks", []):
        cls = getattr(callbacks, callback["class_path"].rpartition(".")[2], None)
        if Capability.DATA_REGENERATION in getattr(cls, "provides", ()):
            return str(cls.__module__.rpartition(".")[2])
    return None


def write_files(folder: Path, rows: int) -> dict[DataKind, str]:
    """Write rows of each kind, of unequal lengths, to files of their own."""
    paths = {}
    for kind, write in WRITERS.items():
        path = folder / f"{kind.value}.jsonl"
        path.write_text("".join(json.dumps(write(i)) + "\n" for i in range(rows)))
        paths[kind] = str(path)
    return paths
