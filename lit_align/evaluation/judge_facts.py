"""What judges say of their own ways, in words."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from lit_align.evaluation.document import Cell
from lit_align.evaluation.plain import flat
from lit_align.evaluation.series import is_number

_WORDS = {
    "position_bias.pairs": "pairs judged in both orders",
    "position_bias.first_place": "share of verdicts for the reply shown first (0.5: no bias)",
    "position_bias.consistent": "share of pairs for which both orders say the same",
    "position_bias.same_place": "share of pairs for which the same place won in both orders",
    "mean_majority_share": "mean share of samples that gave the most frequent answer",
    "mean_order_gap": "mean gap between the probabilities of the two orders",
}
_ELSEWHERE = ("counts.asked", "counts.judged", "counts.unjudged.")
"""Facts that stand in one line, or in the table of what was not judged."""


def fact_rows(facts: Mapping[str, Mapping[str, Any]]) -> list[list[Cell]]:
    """Rows of judge, fact and value.

    Args:
        facts: of each judge, as its `facts.json` has them. Counts of things that did not happen are left out.
    """
    rows: list[list[Cell]] = []
    for judge, known in facts.items():
        counts = known.get("counts")
        if isinstance(counts, Mapping) and is_number(counts.get("asked")):
            rows.append([judge, "responses or pairs that it was asked about", counts["asked"]])
            if counts.get("judged") != counts["asked"]:
                rows.append([judge, "of these judged", counts.get("judged")])
        rows += [
            [judge, _words(name), value]
            for name, value in flat(dict(known))
            if not name.startswith(_ELSEWHERE)
            and isinstance(value, (int, float, str))
            and not (name.startswith("counts.events.") and value == 0)
        ]
    return rows


def _words(name: str) -> str:
    return _WORDS.get(name) or name.removeprefix("counts.events.").replace("_", " ").replace(".", ": ")
