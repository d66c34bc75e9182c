"""Rows of the methods on ranked lists."""

from __future__ import annotations

from tests.cases.row import Case

CASES: list[Case] = []
