"""From examples to one batch of a kind: rows of tokens and the tables beside them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import accumulate

import torch
from torch import Tensor

from lit_align.core.batch import (
    Counts,
    DataKind,
    DemonstrationBatch,
    Example,
    LabelBatch,
    Layout,
    PairBatch,
    PromptBatch,
    Rows,
)
from lit_align.core.layout import build_rows

AnyBatch = PairBatch | LabelBatch | DemonstrationBatch | PromptBatch


class Collator:
    """Turns examples into a batch; holds no state, so that workers and resumed runs agree.

    Args:
        kind: what the batch is for; ranked data must have been converted to pairs.
        layout: how tokens are laid out.
        score_prompts: also score the prompts of pairs.
        pad_id: fills padded rows; any token will do, since masks come from lengths.
        mismatched: add to unpaired completions the rows of a KL estimate.
    """

    def __init__(
        self,
        kind: DataKind,
        layout: Layout,
        *,
        score_prompts: bool = False,
        pad_id: int = 0,
        mismatched: bool = False,
    ) -> None:
        self.kind = kind
        self.layout = layout
        self.score_prompts = score_prompts
        self.pad_id = pad_id
        self.mismatched = mismatched
        self._build: Callable[[Sequence[Example]], AnyBatch] = {
            DataKind.PAIRS: self._pairs,
            DataKind.UNPAIRED: self._unpaired,
            DataKind.DEMONSTRATIONS: self._demonstrations,
            DataKind.PROMPTS: self._prompts,
        }[kind]

    def __call__(self, examples: Sequence[Example]) -> AnyBatch:
        """Collates examples; for unpaired data one more example may follow the batch (see `Neighbours`)."""
        return self._build(examples)

    def _pairs(self, examples: Sequence[Example]) -> PairBatch:
        offsets = [0, *accumulate(len(example.ids) for example in examples)]
        rows = self._rows(examples)
        pairs = [(number, pair) for number, example in enumerate(examples) for pair in example.pairs]
        return PairBatch(
            rows=rows,
            chosen=torch.tensor([offsets[number] + chosen for number, (chosen, _) in pairs]),
            rejected=torch.tensor([offsets[number] + rejected for number, (_, rejected) in pairs]),
            source_rows=torch.tensor([examples[number].row for number, _ in pairs]),
            margin=_per_pair_margins(examples),
            reference_logps=_reference(examples),
            prompt=torch.tensor([offsets[-1] + number for number, _ in pairs]) if self.score_prompts else None,
        )

    def _unpaired(self, examples: Sequence[Example]) -> LabelBatch:
        own = [example for example in examples if not isinstance(example, Neighbour)]
        return LabelBatch(
            rows=self._rows(own),
            label=torch.tensor([bool(example.label) for example in own]),
            source_rows=_source_rows(own),
            kl_rows=self._mismatched_rows(own, examples) if self.mismatched else None,
            reference_logps=_reference(own),
        )
