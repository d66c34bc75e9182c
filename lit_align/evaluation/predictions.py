"""What `lit-align generate` and `lit-align score` say: one record per prompt, and one per response."""

from __future__ import annotations

import math
from itertools import count
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedTokenizerBase

from lit_align.core.batch import Example, PromptBatch, ResponseBatch
from lit_align.core.errors import ConfigError
from lit_align.core.forward import Scorer
from lit_align.core.kinds import (
    LabelledRewardModule,
    ListwiseModule,
    PairwiseModule,
    RewardModule,
    ScoredModule,
    StepRewardModule,
    TokenRewardModule,
    UnpairedModule,
)
from lit_align.core.module import AlignmentModule
from lit_align.core.outputs import ListLogps, PairLogps, SequenceLogps
from lit_align.functional.token_rewards import token_rewards
from lit_align.rollouts.hf import generate

Record = dict[str, Any]
"""Names and values of one line; `row` is its number in the set."""


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


def score_batch(
    method: AlignmentModule, batch: ResponseBatch, tokenizer: PreTrainedTokenizerBase | None = None
) -> list[Record]:
    """Score responses, each once however many pairs it takes part in.

    Args:
        method: its policy scores, a language model or a reward model.
        batch: responses of M.
        tokenizer: the model's, for the rewards of single tokens; None: they are not asked for.

    Returns:
        M records with `tokens`, the number of tokens that are scored, or `steps`, of a model that scores the ends of
        steps; for a reward model `reward`; for a language model `logps`, their summed log-probability, and
        `mean_logps`, per token, both in nats; where the method has a reference, `reference_logps`; where it defines
        implicit rewards, `reward`. With a tokenizer also `token_texts` and `token_rewards`, of each token or step that
        is scored.

    Raises:
        ConfigError: rewards of single tokens are asked for, and cannot be known.
    """
    policy = method.policy
    # The length of a solution is not how many ends of steps it has.
    columns = {"steps" if isinstance(method, StepRewardModule) else "tokens": batch.rows.response_lengths}
    by_token: dict[str, list[list[Any]]] = {}
    if isinstance(method, RewardModule):
        columns["reward"] = method.score_responses(batch.rows)
        if tokenizer is not None:
            by_token = _by_scored_token(method, batch, tokenizer)
    else:
        assert isinstance(policy, Scorer), "what is no reward model is a language model"
        logps, reference = policy.sequence_logps(batch.rows), method.reference_logps(batch)
        columns |= {"logps": logps.sums, "mean_logps": logps.means}
        if reference is not None:
            columns["reference_logps"] = reference.sums
        rewards = implicit_rewards(method, logps, reference)
        if rewards is not None:
            columns["reward"] = rewards
        if tokenizer is not None:
            by_token = _by_token(method, batch, logps, reference, tokenizer)
    values = [*(column.tolist() for column in columns.values()), *by_token.values()]
    names = [*columns, *by_token]
    return [dict(zip(names, response, strict=True)) for response in zip(*values, strict=True)]


def _by_token(
    method: AlignmentModule,
    batch: ResponseBatch,
    policy: SequenceLogps,
    reference: SequenceLogps | None,
    tokenizer: PreTrainedTokenizerBase,
) -> dict[str, list[list[Any]]]:
    """The columns `token_texts` and `token_rewards`: for each of M responses, a value for each scored token."""
    if reference is None:
        raise _no_token_rewards(f"{type(method).__name__}, which compares with no reference")
    if policy.tokens is None or reference.tokens is None:
        raise _no_token_rewards(f"reference: {type(method.reference).__name__}, which knows sums of tokens only")
    rewards = token_rewards(policy.tokens.double(), reference.tokens.double(), getattr(method, "beta", 1.0))
    return _token_columns(rewards, batch, tokenizer)


def _by_scored_token(
    method: RewardModule, batch: ResponseBatch, tokenizer: PreTrainedTokenizerBase
) -> dict[str, list[list[Any]]]:
    """The same of a reward model that scores tokens, or the last ones of steps."""
    if isinstance(method, StepRewardModule):
        return _token_columns(method.step_logits(batch.rows).sigmoid(), batch, tokenizer)
    if isinstance(method, TokenRewardModule) or (isinstance(method, LabelledRewardModule) and method.every_token):
        return _token_columns(method.policy(batch.rows, every_token=True), batch, tokenizer)
    raise _no_token_rewards(f"{type(method).__name__}, which scores whole responses")


def _token_columns(
    rewards: Tensor, batch: ResponseBatch, tokenizer: PreTrainedTokenizerBase
) -> dict[str, list[list[Any]]]:
    lengths = batch.rows.response_lengths.tolist()
    texts = [[tokenizer.decode([token]) for token in ids.tolist()] for ids in batch.rows.target.split(lengths)]
    return {"token_texts": texts, "token_rewards": [part.tolist() for part in rewards.split(lengths)]}


def _no_token_rewards(got: str) -> ConfigError:
    return ConfigError(
        "there are no rewards of single tokens",
        got=got,
        fix="use a method with a reference, such as DPO, and reference: auto or frozen_copy; or leave tokens out",
    )


def implicit_rewards(method: AlignmentModule, policy: SequenceLogps, reference: SequenceLogps | None) -> Tensor | None:
    """The rewards [M] that a method ascribes to responses, as its metric `rewards/chosen` has them; None: it has none.

    Args:
        method: the method.
        policy: log-probabilities under the policy.
        reference: the same under the reference; None where the method has no reference.
    """
    if reference is None:
        reference = policy._replace(sums=torch.zeros_like(policy.sums))
    if isinstance(method, PairwiseModule):
        # Each response as both sides of a pair, of which one is asked for.
        twice = (PairLogps(logps.sums, logps.sums, logps.lengths, logps.lengths) for logps in (policy, reference))
        return method.rewards(*twice)[0]
    if isinstance(method, ListwiseModule):
        ones = torch.ones_like(policy.lengths, dtype=torch.bool)[:, None]
        lists = (ListLogps(logps.sums[:, None], logps.lengths[:, None], ones) for logps in (policy, reference))
        return method.rewards(*lists)[:, 0]
    if isinstance(method, (ScoredModule, UnpairedModule)):
        return method.beta * policy.logratios(reference)
    return None


def describe_responses(example: Example, tokenizer: PreTrainedTokenizerBase) -> list[Record]:
    """Which responses an example holds, one record for each.

    Args:
        example: of the kind `DataKind.RESPONSES`.
        tokenizer: the model's.

    Returns:
        Records with `row`, `response` (from 0; empty ones of the data do not count), what the data say of it
        (`role`: chosen or rejected; `label`; `given_score`; `safe`; `ratings`; `step_labels`), `prompt` and
        `completion` as the model sees them, with special tokens and after cutting, and `truncated`.
    """
    truncated = example.truncated or [False] * len(example.ids)
    return [
        {
            "row": example.row,
            "response": number,
            **_role(example, number),
            "prompt": tokenizer.decode(ids[:prompt]),
            "completion": tokenizer.decode(ids[prompt:]),
            "truncated": cut,
        }
        for number, ids, prompt, cut in zip(count(), example.ids, example.prompt_lengths, truncated)
    ]


def _role(example: Example, number: int) -> Record:
    if example.label is not None:
        return {"label": example.label}
    role: Record = {}
    for chosen, rejected in example.pairs:
        if number in (chosen, rejected):
            role = {"role": "chosen" if number == chosen else "rejected"}
    if example.scores is not None:
        role["given_score"] = example.scores[number]
    if example.safe is not None:
        role["safe"] = example.safe[number]
    for name, values in (("ratings", example.ratings), ("step_labels", example.step_labels)):
        if values is not None:
            # JSON has no nan.
            role[name] = [None if math.isnan(value) else value for value in values]
    return role
