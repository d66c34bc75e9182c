"""UNA's scores: those outside of their range are named, and not trained on."""

from __future__ import annotations

import pytest
import torch

import lit_align
from lit_align.core.batch import DataKind, Layout
from lit_align.core.errors import ConfigError, DataError
from tests.methods.scoring import collated, make_examples, ready


@pytest.mark.parametrize("score", [1.5, -0.1])
def test_a_score_out_of_range_is_named(score, tiny_model_dir):
    module = ready("UNAScore", tiny_model_dir)
    examples = make_examples(DataKind.SCORED)
    examples[2] = examples[2]._replace(row=77, scores=[score])
    batch = collated(module, examples, Layout.SHARED)
    with pytest.raises(DataError, match=rf"(?s)outside of \[0, 1\].*row 77, field 'score': {score}.*score_range"):
        module.terms(batch)
    for settings in ({"score_range": (-1.0, 2.0)}, {"loss": "raw"}):
        assert torch.isfinite(ready("UNAScore", tiny_model_dir, **settings).terms(batch)["loss"].values).all()


@pytest.mark.parametrize("settings", [{"score_range": (1.0, 0.0)}, {"score_center": 0.0}, {"score_center": 2.0}])
def test_a_center_outside_of_the_range_is_refused(settings):
    with pytest.raises(ConfigError, match="outside of their range"):
        lit_align.UNAScore(policy="unused", **settings)
    lit_align.UNAScore(policy="unused", loss="raw", **settings)
