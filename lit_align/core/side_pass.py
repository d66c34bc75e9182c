"""A pass over some examples beside training: each rank a share of them, all ranks as many batches."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import torch
from lightning.fabric.utilities import move_data_to_device
from torch import Tensor

from lit_align.core.batch import Example
from lit_align.core.layout import build_rows
from lit_align.core.metrics import over_ranks
from lit_align.core.modes import evaluating
from lit_align.functional.logprobs import segment_sums


class Share(NamedTuple):
    """A batch of one rank."""

    batch: Any
    """On the device of the module."""
    indices: list[int]
    """What it is of; empty where it is not to be counted. A rank that has nothing left repeats an example, since ranks
    with sharded weights gather them in every forward pass, so all of them must make as many."""


class ResponseScores(NamedTuple):
    """What a model makes of responses, in the order in which they were given; on all ranks the same."""

    sums: Tensor
    """[M] float64, summed log-probabilities, nats."""
    lengths: Tensor
    """[M] float64, scored tokens."""
    entropies: Tensor
    """[M] float64, entropies of the next token, summed over the scored tokens, nats; of the policy only, else 0."""


def shares(module: Any, number: int, make: Callable[[list[int]], Any], size: int) -> Iterator[Share]:
    """Batches of this rank; without gradient, in evaluation mode and in the run's precision.

    All ranks go through this together, to the end, where modes are restored.

    Args:
        module: a method, inside a run.
        number: of things to go through, at least 1.
        make: a batch of the things with these indices, on the host.
        size: things in a batch.
    """
    trainer = module.trainer
    own = range(trainer.global_rank, number, trainer.world_size)
    with evaluating(module), torch.no_grad(), trainer.precision_plugin.forward_context():
        for start in range(0, math.ceil(number / trainer.world_size), size):
            indices = list(own[start : start + size])
            with torch.device("cpu"):
                batch = make(indices or [0])
            yield Share(move_data_to_device(batch, module.device), indices)


def in_order(parts: Sequence[Tensor]) -> Tensor:
    """The rows of all ranks, ordered by their first entry; all ranks call this together.

    Args:
        parts: [*, C] each, at least one.

    Returns:
        [N, C].
    """
    rows = over_ranks(torch.cat(list(parts)))[0]
    return rows[rows[:, 0].argsort(stable=True)]


def score_responses(
    module: Any, examples: Sequence[Example], size: int = 8, *, reference: bool = False
) -> ResponseScores:
    """Score all responses of the examples under the policy as it is; all ranks call this together.

    Args:
        module: a method with a language model as its policy, inside a run.
        examples: at least one, each with as many responses.
        size: examples in a batch.
        reference: score them under the method's reference instead, which must score any text.
    """
    per_example = len(examples[0].ids)
    parts = [torch.zeros(0, 4, dtype=torch.float64, device=module.device)]

    def make(indices: list[int]) -> Any:
        return build_rows([examples[index] for index in indices], module.resolved_layout)

    for rows, indices in shares(module, len(examples), make, size):
        if reference:
            logps = module.reference.logps(rows)
            entropies = torch.zeros_like(logps.sums)
        else:
            logps = module.policy.sequence_logps(rows, statistics=True)
            entropies = segment_sums(module.policy.statistics.entropy, rows.response, len(logps.sums))
        if indices:
            first = torch.tensor(indices, device=module.device).repeat_interleave(per_example) * per_example
            place = first + torch.arange(per_example, device=module.device).repeat(len(indices))
            parts.append(torch.stack([x.double() for x in (place, logps.sums, logps.lengths, entropies)], 1))
    _, sums, lengths, entropies = in_order(parts).unbind(1)
    return ResponseScores(sums, lengths, entropies)
