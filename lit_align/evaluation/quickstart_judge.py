"""The rule of the quickstart's world, for `PythonJudge`: `path: lit_align.evaluation.quickstart_judge:score`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from lit_align.evaluation.quickstart_language import assess


def score(prompts: Sequence[Any], completions: Sequence[str], **columns: Sequence[Any]) -> list[float]:
    """How much of the preferred behaviour replies show: 1 each for right, courteous and well formed.

    Args:
        prompts: of the quickstart's world, texts or conversations.
        completions: replies.
        **columns: not read.
    """
    return [float(sum(assess(_asked(prompt), reply))) for prompt, reply in zip(prompts, completions, strict=True)]


def _asked(prompt: Any) -> str:
    """What the person has asked last."""
    return prompt if isinstance(prompt, str) else str(prompt[-1]["content"])
