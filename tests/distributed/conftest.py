"""Runs that several tests compare with, made once."""

from __future__ import annotations

import pytest

from tests.distributed.jobs import Job, Result, run
from tests.launch import launch


@pytest.fixture(scope="session")
def alone():
    """Runs a job in one process, which tests compare with; the same job once only."""
    results: dict[Job, Result] = {}

    def run_once(job: Job) -> Result:
        if job not in results:
            (results[job],) = launch(run, job, world=1)
        return results[job]

    return run_once
