"""Rows of the methods on pairs with a reference that resist noise, drift, displacement or corruption."""

from __future__ import annotations

from tests.cases.row import Case

CASES: list[Case] = []
