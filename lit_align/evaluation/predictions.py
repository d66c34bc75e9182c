"""What `lit-align generate` and `lit-align score` say about a batch: one record per example."""

from __future__ import annotations

from typing import Any

from torch import nn
from transformers import PreTrainedTokenizerBase

from lit_align.core.batch import Batch, LabelBatch, PairBatch, PromptBatch
from lit_align.core.forward import RewardScorer, Scorer
from lit_align.rollouts.hf import generate

Record = dict[str, Any]
"""Begins with `row`, the 1-based row of the data."""


def complete_batch(
    policy: nn.Module, tokenizer: PreTrainedTokenizerBase, batch: PromptBatch, *, seed: int, **sampling: Any
) -> list[Record]:
    """Complete prompts.

    Args:
        policy: a scorer around a causal language model.
        tokenizer: the model's.
        batch: prompts [B, T].
        seed: with a prompt's row it decides its random numbers, so batches and processes do not matter.
        **sampling: further arguments of `rollouts.hf.generate`.

    Returns:
        Records with row, prompt, completion, tokens (their number), finished (before the longest length).
    """
    prompts = [ids[mask.bool()].tolist() for ids, mask in zip(batch.input_ids, batch.attention_mask, strict=True)]
    rows = batch.source_rows.tolist()
    seeds = [seed * 1_000_003 + row for row in rows]
    completions = generate(policy, tokenizer, prompts, seed=seeds, batch_size=len(prompts), **sampling)
    return [
        {
            "row": row,
            "prompt": tokenizer.decode(completion.prompt),
            "completion": completion.text,
            "tokens": len(completion.ids),
            "finished": completion.finished,
        }
        for row, completion in zip(rows, completions, strict=True)
    ]


def score_batch(policy: Scorer | RewardScorer, batch: Batch) -> list[Record]:
    """Score responses: by a reward model's head, or by their summed log-probability, nats.

    Args:
        policy: a scorer.
        batch: pairs, labelled completions or demonstrations.

    Returns:
        Records with row and, for each response, `score`, or `logps` and `tokens`; with `chosen_` and `rejected_`
        before these names for pairs.
    """
    if isinstance(policy, RewardScorer):
        columns = {"score": policy(batch.rows).tolist()}
    else:
        logps = policy.sequence_logps(batch.rows)
        columns = {"logps": logps.sums.tolist(), "tokens": logps.lengths.tolist()}
    if isinstance(batch, PairBatch):
        sides = {"chosen_": batch.chosen.tolist(), "rejected_": batch.rejected.tolist()}
        columns = {
            f"{side}{name}": [values[index] for index in indices]
            for side, indices in sides.items()
            for name, values in columns.items()
        }
    if isinstance(batch, LabelBatch):
        columns |= {"label": batch.label.tolist()}
    columns = {"row": batch.source_rows.tolist()} | columns
    return [dict(zip(columns, values, strict=True)) for values in zip(*columns.values(), strict=True)]
