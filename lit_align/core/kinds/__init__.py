"""One base class per kind of data: each turns a batch into log-probabilities and asks the method for losses."""

from __future__ import annotations

from lit_align.core.kinds.contextual import ContextualModule
from lit_align.core.kinds.demonstration import DemonstrationModule
from lit_align.core.kinds.judged import JudgedModule
from lit_align.core.kinds.language import LanguageModelModule, Losses, as_terms
from lit_align.core.kinds.listwise import ListwiseModule, list_up
from lit_align.core.kinds.pairwise import PairwiseModule, pair_up
from lit_align.core.kinds.paraphrased import ParaphrasedModule
from lit_align.core.kinds.reward import (
    ListwiseRewardModule,
    PairwiseRewardModule,
    RewardModule,
    TokenRewardModule,
)
from lit_align.core.kinds.unpaired import ScoredModule, UnpairedModule
from lit_align.core.kinds.verdicts import (
    ComparisonModule,
    LabelledRewardModule,
    RatedRewardModule,
    StepRewardModule,
)

__all__ = [
    "ComparisonModule",
    "ContextualModule",
    "DemonstrationModule",
    "JudgedModule",
    "LabelledRewardModule",
    "LanguageModelModule",
    "ListwiseModule",
    "ListwiseRewardModule",
    "Losses",
    "PairwiseModule",
    "PairwiseRewardModule",
    "ParaphrasedModule",
    "RatedRewardModule",
    "RewardModule",
    "ScoredModule",
    "StepRewardModule",
    "TokenRewardModule",
    "UnpairedModule",
    "as_terms",
    "list_up",
    "pair_up",
]
