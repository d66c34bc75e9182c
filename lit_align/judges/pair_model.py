"""A preference model that reads both responses, as a judge."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch

from lit_align.core.batch import Example
from lit_align.functional.preferences import BothOrders, both_orders
from lit_align.judges.base import TIE, Columns, CountingPairwise, Verdict
from lit_align.judges.reward_model import NOT_FINITE
from lit_align.judges.text_model import CUT, TextModel, check_head, count_cut
from lit_align.rollouts.engine import Prompt


class PairModelJudge(CountingPairwise):
    """Compares with a sequence classifier that was trained on both responses in one text, in both orders.

    Args:
        model: folder or hub name; its one number is the logit that the response that stands first is better.
        combine: `antisymmetric`, sigma of half the difference of the two orders' logits; or the `mean` of the two
            orders' probabilities. Either way the verdict on (a, b) is one minus that on (b, a).
        allow_new_head: take a model without a head that scores, with a random one.
        **text_model: further settings of the model and its texts, see `TextModel`.

    Raises:
        ConfigError: a setting is out of range.
    """

    def __init__(
        self,
        model: str,
        combine: BothOrders = "antisymmetric",
        allow_new_head: bool = False,
        **text_model: Any,
    ) -> None:
        self.model = TextModel(model, "reward", **text_model)
        self.combine, self.allow_new_head = combine, allow_new_head

    def _compare(
        self, prompts: Sequence[Prompt], firsts: Sequence[str], seconds: Sequence[str], columns: Columns
    ) -> list[Verdict]:
        check_head(self.model, self.allow_new_head)
        results = [Verdict(TIE, "the two responses are identical")] * len(prompts)
        places = [n for n in range(len(prompts)) if firsts[n] != seconds[n]]
        parts = ([texts[n] for n in places] for texts in (prompts, firsts, seconds))
        read = self.model.read_pairs(*parts)  # type: ignore[arg-type]
        kept = [example for example in read if isinstance(example, Example)]
        self.counts.events[CUT] += count_cut(kept)
        logits = iter(self.model.values(kept, lambda scorer, rows: scorer(rows)))
        for place, example in zip(places, read, strict=True):
            if isinstance(example, Example):
                results[place] = self._verdict(*next(logits))
            else:
                results[place] = Verdict(None, example.reason)
        return results

    def _verdict(self, first: float, second: float) -> Verdict:
        """Of the logits that the response is better that stands first, for both orders."""
        if not (math.isfinite(first) and math.isfinite(second)):
            return Verdict(None, f"{NOT_FINITE}: {first}, {second}")
        own, other = torch.tensor([first, second], dtype=torch.float64)
        self.totals["pairs"] += 1
        self.totals["order_gap"] += abs((own.sigmoid() + other.sigmoid()).item() - 1)
        return Verdict(
            both_orders(own, other, self.combine).item(),
            f"logits {first:.4g} where it stands first, {-second:.4g} where it stands second",
            (own.sigmoid().item(), 1 - other.sigmoid().item()),
        )

    def facts(self) -> dict[str, Any]:
        """By how much, on average, the two orders' probabilities fail to add up to 1."""
        pairs = self.totals["pairs"]
        return {"mean_order_gap": self.totals["order_gap"] / pairs if pairs else None}

    def release(self) -> None:
        """Give back the model's memory."""
        self.model.release()
