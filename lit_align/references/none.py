"""No reference: every log-probability under it counts as 0."""

from __future__ import annotations

import torch
from torch import Tensor

from lit_align.core.batch import Rows
from lit_align.references.base import Reference


class NoReference(Reference):
    """The reference-free form of a method: the DPO authors' `reference_free` option, not what the papers propose."""

    def token_logps(self, rows: Rows, *, whole: bool = False) -> Tensor:
        """Zeros [N]."""
        return torch.zeros(len(rows.target), dtype=torch.float64, device=rows.target.device)
