"""A cache of sums is refused before the data are scored for it, where a method compares single tokens."""

from __future__ import annotations

import pytest

import lit_align
from lit_align import Trainer
from lit_align.core.errors import ConfigError
from lit_align.references import Precomputed


def module(name: str, reference, tmp_path, **kwargs):
    built = getattr(lit_align, name)(policy="unused", reference=reference, **kwargs)
    built.trainer = Trainer(accelerator="cpu", default_root_dir=str(tmp_path), logger=False)
    return built


@pytest.mark.parametrize("reference", ["precomputed", Precomputed()], ids=["by name", "as an object"])
@pytest.mark.parametrize(("name", "kwargs"), [("TDPO1", {}), ("TDPO2", {}), ("LDDPO", {}), ("NPO", {"kl_weight": 1.0})])
def test_refused(name, kwargs, reference, tmp_path):
    with pytest.raises(ConfigError, match=f"{name} compares single tokens with the reference"):
        module(name, reference, tmp_path, **kwargs).setup("fit")


@pytest.mark.parametrize(("name", "kwargs"), [("DPO", {}), ("WPO", {}), ("NPO", {"kl_weight": 0.0})])
def test_where_sums_do_they_are_taken(name, kwargs, tmp_path):
    module(name, "precomputed", tmp_path, **kwargs).setup("fit")
