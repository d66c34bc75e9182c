"""One vector for each prompt, or each response, from the hidden states of its tokens."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from lit_align.core.batch import Rows

Pooling = Literal["mean", "last"]
"""Mean over the prompt's tokens, or the state of its last one."""


def pool_prompts(hidden: Tensor, rows: Rows, pooling: Pooling) -> Tensor:
    """Vectors of the prompts that the responses of `rows` answer.

    Args:
        hidden: [R * T, H] final hidden states, with gradient.
        rows: where the prompts stand; each needs at least one token.
        pooling: how.

    Returns:
        [M, H], float32 or better, with gradient.
    """
    starts = rows.response_lengths.cumsum(0) - rows.response_lengths
    last = rows.pred_index[starts]
    wide = hidden.to(torch.promote_types(hidden.dtype, torch.float32))
    if pooling == "last":
        return wide[last]
    return torch.stack([wide[places].mean(0) for places in _prompts(rows, last.tolist())])


def pool_responses(hidden: Tensor, rows: Rows) -> Tensor:
    """Vectors of responses: the mean over the tokens that are scored.

    Args:
        hidden: [R * T, H] final hidden states, with gradient.
        rows: where the responses stand.

    Returns:
        [M, H], float32 or better, with gradient.
    """
    wide = hidden.index_select(0, rows.token_index)
    wide = wide.to(torch.promote_types(hidden.dtype, torch.float32))
    sums = wide.new_zeros(len(rows.response_lengths), wide.shape[1]).index_add(0, rows.response, wide)
    return sums / rows.response_lengths[:, None]


def _prompts(rows: Rows, last: list[int]) -> list[Tensor]:
    """For each response, the flat positions of its prompt's tokens."""
    device = rows.input_ids.device
    if rows.segments is None:
        width = rows.input_ids.shape[1]
        return [torch.arange(end // width * width, end + 1, device=device) for end in last]
    places = []
    for (start, _, prefix_start, prefix_end), end in zip(rows.segments.plan, last, strict=True):
        # The last token of a prompt may stand in the shared prefix; then nothing of the segment belongs to the prompt.
        inside = torch.arange(start, max(end + 1, start), device=device)
        prefix = torch.arange(prefix_start, min(prefix_end, end + 1) if end < start else prefix_end, device=device)
        places.append(torch.cat([prefix, inside]))
    return places
