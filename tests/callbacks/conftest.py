"""What all tests of callbacks share."""

from __future__ import annotations

import os

import pytest


@pytest.fixture(autouse=True)
def _fast(monkeypatch):
    """Bytes outlive a killed process without being forced to the disk, which is slow."""
    monkeypatch.setattr(os, "fsync", lambda descriptor: None)
