"""Fixtures of the tests of the data path."""

from __future__ import annotations

from functools import partial

import pytest

from tests.data.modules import make_module, pair_rows, write


@pytest.fixture
def pairs(tmp_path):
    """A file of 26 pairs."""
    return write(tmp_path / "pairs.jsonl", pair_rows(26))


@pytest.fixture
def make(tmp_path):
    """Makes data modules that share a cache."""
    return partial(make_module, tmp_path)
