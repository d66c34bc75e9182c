"""Settings of loops that exclude each other, and how a policy judges itself."""

from __future__ import annotations

import pytest

from lit_align.callbacks import OnlineDPO
from lit_align.core.errors import ConfigError
from lit_align.judges import SelfJudge
from lit_align.judges.base import Judged, PointwiseJudge


class Indifferent(PointwiseJudge):
    """Likes every answer."""

    def score(self, prompts, completions, **columns):
        return [Judged(1.0) for _ in completions]


def test_rounds_that_are_learnt_from_again_are_not_deleted():
    with pytest.raises(ConfigError, match="cannot be deleted"):
        OnlineDPO(Indifferent(), keep_rounds=4, reuse="all")


def test_an_expected_score_has_one_reason_and_that_is_the_likeliest():
    assert SelfJudge("model", mode="expected", rationale=True).sampling["temperature"] == 0
    assert SelfJudge("model", mode="text").sampling["temperature"] > 0
