"""Whether score files have one judge: scores of different judges have scales of their own, and cannot be ranked."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

from lit_align.core.errors import ConfigError
from lit_align.evaluation.kept_files import digest_of
from lit_align.evaluation.score_files import Scored


def check_one_judge(files: Mapping[str, Sequence[Scored]], paths: Mapping[str, str]) -> str:
    """Refuse scores of different judges.

    Args:
        files: records by the name of their file, with `rm` empty where the file does not say who scored.
        paths: the files; beside those of `lit-align judge` stands which judge that was.

    Returns:
        What to say where it is not known who scored; empty where it is.

    Raises:
        ConfigError: there are two judges.
    """
    judges = {name: {record.rm for record in records} for name, records in files.items()}
    if not any(set().union(*judges.values())):
        judges = {name: _beside(Path(paths[name])) for name in files}
    known = {name: sorted(found - {""}) for name, found in judges.items() if found - {""}}
    if len({judge for found in known.values() for judge in found}) > 1:
        raise ConfigError(
            "the scores are of different judges, and cannot be compared",
            got="; ".join(f"{name}: {', '.join(found)}" for name, found in known.items()),
            fix="let one judge score the responses of all models; the field rm of a score file names it",
        )
    unknown = [name for name, found in judges.items() if not found or "" in found]
    if not unknown:
        return ""
    return (
        f"It is not known who scored {', '.join(unknown)}: if that was not one judge for all models, the ranking means "
        "nothing."
    )


def _beside(path: Path) -> set[str]:
    """The judge by which `lit-align judge` has made a file; nothing where it has not."""
    key = path.with_name(f"{path.name}.key.json")
    judge = json.loads(key.read_text(encoding="utf-8"))["key"].get("judge") if key.is_file() else None
    return set() if judge is None else {f"{judge.get('class_path')} {digest_of(judge)[:8]}"}
