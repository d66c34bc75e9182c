"""The data of `lit-align compare`: made into what each method learns from, and held out once for all of them."""

from __future__ import annotations

import hashlib
import json
from dataclasses import replace
from pathlib import Path

from lit_align.core.batch import DataKind
from lit_align.core.errors import ConfigError
from lit_align.data.canonical import Dropped, Rules
from lit_align.data.convert import CONVERSIONS
from lit_align.data.module import PreferenceDataModule
from lit_align.data.readers import peek, read_rows
from lit_align.data.render import group_key
from lit_align.data.schema import normalise, recognise
from lit_align.data.splits import hold_out
from lit_align.evaluation.plain import flat as flat
from lit_align.evaluation.plain import write_whole as write_whole

_END = 1 << 20
"""Bytes at either end of a file of weights that tell it from others."""
_SAMPLES, _SAMPLE = 64, 1 << 12
"""Into how many parts the file is divided, and how many bytes at the beginning of each count too."""


def conversion_for(data: PreferenceDataModule, split: str, kind: DataKind) -> str | None:
    """How data become what a method learns from: not at all, by the setting `convert`, or by the first way that fits.

    Args:
        data: the data; `data.sets.method` is the method.
        split: train or validation.
        kind: what the method learns from.

    Returns:
        Name of the conversion; None where the data are of that kind.

    Raises:
        ConfigError: there is no way.
        DataError: the data cannot be read.
    """
    source, pipeline = data.sets.source(split), data.sets.pipeline(kind)
    given, refused = pipeline.recipe, None
    columns, rows = peek(read_rows(source, streaming=True))
    fitting = [name for name, conversion in CONVERSIONS.items() if conversion.target is kind]
    for name in (None, *sorted(fitting, key=lambda name: name != given.convert)):
        own = name == given.convert
        pipeline.recipe = given if own else replace(given, convert=name, convert_args={})
        try:
            pipeline.recognise(str(source), columns, rows)
        except ConfigError as error:
            refused = refused or error
        else:
            return name
    assert refused is not None
    raise refused


def hold_out_once(data: PreferenceDataModule, folder: Path) -> tuple[Path, Path]:
    """Write the rows to learn from and those that `val_split` holds out to two files.

    Every method then has the same rows held out, whatever its conversion makes of a row.

    Args:
        data: with training data and `val_split`.
        folder: where to write `train.jsonl` and `held_out.jsonl`.
    """
    source, recipe = data.sets.source("train"), data.recipe
    rows = read_rows(source, streaming=True)
    columns, first = peek(rows)
    fmt = recognise(columns, first, mapping=recipe.columns, file=str(source), wanted=DataKind.PAIRS, name=recipe.format)
    rules = Rules(on_bad_row=recipe.on_bad_row, on_no_preference=recipe.on_no_preference)
    texts: list[str] = []
    places: list[int] = []
    groups: list[int] = []
    numbers: dict[str, int] = {}
    for raw in rows:
        row = normalise(raw, fmt, recipe.columns, str(source), rules=rules)
        if not isinstance(row, Dropped):
            places.append(len(texts))
            groups.append(numbers.setdefault(group_key(row), len(numbers)))
        texts.append(json.dumps({k: v for k, v in raw.items() if not k.startswith("__")}, default=str))
    _, held_out = hold_out(groups, data.val_split, data.split_seed)
    aside = {places[index] for index in held_out}
    folder.mkdir(parents=True, exist_ok=True)
    files = folder / "train.jsonl", folder / "held_out.jsonl"
    for file, wanted in zip(files, (False, True), strict=True):
        write_whole(file, "".join(f"{text}\n" for place, text in enumerate(texts) if (place in aside) == wanted))
    return files


def policy_fingerprint(policy: str) -> str:
    """Changes with the model in a folder: by names and sizes of its files, and by their ends and samples between."""
    folder = Path(policy).expanduser()
    if not folder.is_dir():
        return policy
    digest = hashlib.sha256()
    for file in sorted(path for path in folder.rglob("*") if path.is_file()):
        size = file.stat().st_size
        digest.update(f"{file.relative_to(folder)}\0{size}\0".encode())
        with file.open("rb") as content:
            digest.update(content.read(_END))
            # Training may leave both ends as they were: embeddings and the last norm, where an adapter was merged.
            for part in range(1, _SAMPLES):
                content.seek(size * part // _SAMPLES)
                digest.update(content.read(_SAMPLE))
            content.seek(max(0, size - _END))
            digest.update(content.read(_END))
    return digest.hexdigest()
