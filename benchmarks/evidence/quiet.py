"""Runs inside an experiment say nothing, and leave no trace in the global random state."""

from __future__ import annotations

import contextlib
import io
import logging
import random
import warnings

import torch
import transformers


@contextlib.contextmanager
def quiet():
    """Nothing is printed, warned of or shown to be under way; the global random state is left as it was."""
    bars = transformers.utils.logging.is_progress_bar_enabled()
    logger, state = logging.getLogger("lightning.pytorch"), random.getstate()
    level, chatter = logger.level, transformers.utils.logging.get_verbosity()
    transformers.utils.logging.disable_progress_bar()
    transformers.utils.logging.set_verbosity_error()
    logger.setLevel(logging.ERROR)
    try:
        with (
            contextlib.redirect_stdout(io.StringIO()),
            warnings.catch_warnings(),
            torch.random.fork_rng(devices=[]),
        ):
            warnings.simplefilter("ignore")
            yield
    finally:
        random.setstate(state)
        logger.setLevel(level)
        transformers.utils.logging.set_verbosity(chatter)
        if bars:
            transformers.utils.logging.enable_progress_bar()
