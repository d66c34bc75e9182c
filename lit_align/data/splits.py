"""Holding out rows, so that no prompt stands on both sides."""

from __future__ import annotations

import random
from collections.abc import Sequence

from lit_align.core.errors import ConfigError, DataError


def check_amount(amount: float) -> None:
    """Refuse what is neither rows to hold out nor a share of them.

    Raises:
        ConfigError: it is negative, 1.0, or above 1 and not whole.
    """
    all_rows = isinstance(amount, float) and amount == 1
    if amount < 0 or all_rows or amount != amount or (amount > 1 and amount != int(amount)):
        raise ConfigError(
            "The validation split is neither a share nor a number of rows.",
            got=f"data.val_split: {amount}",
            fix="Give a share of at least 0 and below 1, like 0.05, or a number of rows, like 200.",
        )


def hold_out(groups: Sequence[int], amount: float, seed: int) -> tuple[list[int], list[int]]:
    """Splits rows into those to learn from and those to hold out.

    Args:
        groups: for each row, the group that stays together (rows with one prompt).
        amount: rows to hold out, or, below 1, the share of them. Groups are taken until there are so many.
        seed: decides which groups.

    Returns:
        Indices to learn from and held-out indices, each ascending.

    Raises:
        ConfigError: an impossible amount.
        DataError: nothing would be left on one side.
    """
    check_amount(amount)
    wanted = round(amount * len(groups)) if amount < 1 else int(amount)
    members: dict[int, list[int]] = {}
    for index, group in enumerate(groups):
        members.setdefault(group, []).append(index)
    order = sorted(members)
    random.Random(seed).shuffle(order)
    held_out: list[int] = []
    for group in order:
        if len(held_out) >= max(1, wanted):
            break
        held_out += members[group]
    if len(held_out) == len(groups):
        raise DataError(
            "The validation split leaves nothing to learn from.",
            value=f"data.val_split {amount} of {len(groups)} rows with {len(members)} different prompts",
            fix="Hold out fewer rows, or give more data.",
        )
    kept = set(range(len(groups))) - set(held_out)
    return sorted(kept), sorted(held_out)
