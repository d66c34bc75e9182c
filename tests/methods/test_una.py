"""UNA's range of scores; what becomes of scores outside of it is in `tests/data/test_demands.py`."""

from __future__ import annotations

import pytest

import lit_align
from lit_align.core.errors import ConfigError


@pytest.mark.parametrize("settings", [{"score_range": (1.0, 0.0)}, {"score_center": 0.0}, {"score_center": 2.0}])
def test_a_center_outside_of_the_range_is_refused(settings):
    with pytest.raises(ConfigError, match="outside of their range"):
        lit_align.UNAScore(policy="unused", **settings)
    lit_align.UNAScore(policy="unused", loss="raw", **settings)
