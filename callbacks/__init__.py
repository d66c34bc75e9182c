"""Callbacks of lit-align, one class per file; import them from `lit_align.callbacks`."""

from __future__ import annotations

import importlib
from typing import Any

# They load on first use: some of them need libraries that a run without them should not wait for.
_PUBLIC = {
    "AIFeedback": "ai_feedback",
    "RSO": "rso",
    "RunCheckpoint": "checkpoint",
    "CompletionsTable": "completions_table",
    "AdversarialPO": "adversarial_po",
    "ContextDistilled": "context_distilled",
    "CritiqueRevision": "critique_revision",
    "DICE": "dice",
    "DriftAlarm": "drift_alarm",
    "ExactResume": "exact_resume",
    "Footprint": "footprint",
    "IterativeDPO": "iterative_dpo",
    "LoRA": "lora",
    "NoiseFilter": "noise_filter",
    "NonFiniteGuard": "non_finite_guard",
    "OnlineDPO": "online_dpo",
    "QLoRA": "qlora",
    "RAFT": "raft",
    "RegenerationCallback": "regeneration",
    "ReferenceSync": "reference_sync",
    "RunRecord": "run_record",
    "RunReport": "run_report",
    "SampledPairs": "samplers",
    "SPIN": "spin",
    "SPPORounds": "sppo_rounds",
    "SelfRewarding": "self_rewarding",
    "ThreeDDiagnostics": "three_d_diagnostics",
    "Timing": "timing",
}

__all__ = list(_PUBLIC)


def __getattr__(name: str) -> Any:
    """Import a public name when it is first asked for (PEP 562)."""
    if name not in _PUBLIC:
        raise AttributeError(f"module 'lit_align.callbacks' has no attribute {name!r}; it has {', '.join(_PUBLIC)}")
    return getattr(importlib.import_module(f"lit_align.callbacks.{_PUBLIC[name]}"), name)


def __dir__() -> list[str]:
    """List the lazy names too."""
    return sorted({*globals(), *_PUBLIC})
