"""How many are kept where a share is dropped."""

from __future__ import annotations

import pytest

from lit_align.functional.selection import number_kept


@pytest.mark.parametrize(
    ("number", "dropped", "kept"), [(10, 0.0, 10), (10, 0.7, 3), (10, 0.25, 7), (10, 0.95, 1), (5, 0.4, 3), (1, 0.9, 1)]
)
def test_the_share_is_rounded_up_but_never_all(number, dropped, kept):
    assert number_kept(number, dropped) == kept
