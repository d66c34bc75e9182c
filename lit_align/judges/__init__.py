"""Judges: what scores responses, or says which of two is better. They load when they are first asked for."""

from __future__ import annotations

import importlib
from typing import Any

MODULES = {
    "ExactMatch": "verifiers",
    "FormatMatch": "verifiers",
    "ImplicitReward": "implicit",
    "Judge": "base",
    "JudgeVote": "majority",
    "Judged": "base",
    "LLMJudge": "llm",
    "LLMScoreJudge": "llm_score",
    "LengthNormalised": "length",
    "LengthPenalised": "length",
    "MajorityVote": "majority",
    "NumericMatch": "verifiers",
    "PairModelJudge": "pair_model",
    "PairwiseJudge": "base",
    "PointwiseJudge": "base",
    "PythonJudge": "python",
    "RegexMatch": "verifiers",
    "RewardEnsemble": "ensemble",
    "RewardModelJudge": "reward_model",
    "SelfJudge": "llm_score",
    "Verdict": "base",
    "judge_from_config": "loading",
    "judgements": "teaching",
}
"""The module of each public name."""

__all__ = list(MODULES)


def __getattr__(name: str) -> Any:
    """Import a judge when it is first asked for (PEP 562)."""
    if name not in MODULES:
        raise AttributeError(f"module 'lit_align.judges' has no attribute {name!r}; it has {', '.join(MODULES)}")
    return getattr(importlib.import_module(f"lit_align.judges.{MODULES[name]}"), name)
