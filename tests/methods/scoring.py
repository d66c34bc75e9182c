"""A method on a tiny model with batches made by hand: no files, no training."""

from __future__ import annotations

import dataclasses
import random
from collections.abc import Callable, Sequence
from math import nan
from typing import Any, NamedTuple

import torch
from lightning.pytorch import Trainer
from torch import Tensor, nn

import lit_align
from lit_align.core.batch import Batch, DataKind, Example, Layout, Rows
from lit_align.core.kinds import RatedRewardModule, as_terms
from lit_align.core.module import AlignmentModule
from lit_align.core.outputs import Per, Term, reduce_terms
from lit_align.core.policy import LoRASpec
from lit_align.data.collate import Collator, Drawn

MASKS = ([1, 1, 0, 0, 0, 1, 1, 0, 1], [0, 0, 1, 0, 1, 1])
"""Two turns of the assistant in each response, with what the user says between them."""


class Scored(NamedTuple):
    """What a batch comes to."""

    loss: Tensor
    """Scalar, detached."""
    values: Tensor
    """[B] detached, the parts of each example's loss added up."""
    gradient: Tensor
    """Of the loss in all trained weights, flat."""
    metrics: dict[str, float]


def ready(
    method: str | type[AlignmentModule], model: str, *, lora: LoRASpec | None = None, moved: bool = True, **kwargs: Any
) -> AlignmentModule:
    """The method with its policy built, and moved away from its reference, so that log-ratios are not zero."""
    cls = getattr(lit_align, method) if isinstance(method, str) else method
    module = cls(policy=model, **({"dtype": "float64"} | kwargs))
    module.policy_spec = dataclasses.replace(module.policy_spec, lora=lora)
    module.trainer = Trainer(accelerator="cpu", logger=False, enable_checkpointing=False, enable_progress_bar=False)
    module.configure_model()
    if moved:
        move(module.policy)
    return module


@torch.no_grad()
def move(policy: nn.Module, amount: float = 0.05, seed: int = 0) -> None:
    """Change all trained weights a little."""
    generator = torch.Generator().manual_seed(seed)
    for parameter in policy.parameters():
        if parameter.requires_grad:
            parameter.add_(amount * torch.randn(parameter.shape, generator=generator).to(parameter.dtype))


def make_examples(kind: DataKind, *, masked: bool = True) -> list[Example]:
    """Four examples with prompts and completions of unequal lengths, one of them with two turns of the assistant."""
    rng = random.Random(0)

    def tokens(count: int) -> list[int]:
        return [rng.randrange(3, 264) for _ in range(count)]

    examples = []
    for row, (prompt, first, second) in enumerate([(7, 5, 8), (3, 9, 6), (11, 2, 4), (5, 6, 3)], start=1):
        start = tokens(prompt)
        ids = [start + tokens(length) for length in (first, second)]
        masks = list(map(list, MASKS)) if masked and row == 2 else None
        examples.append(Example(row, ids, [prompt, prompt], masks, pairs=[(0, 1)], label=row % 2 == 0))
    if kind is DataKind.PAIRS:
        return [
            example._replace(
                margins=[0.7 * example.row],
                scores=[0.5 + 0.1 * example.row, 0.5],
                timestamp=float(example.row % 3),
                weights=[0.5 * example.row],
                safe=[True, example.row % 2 == 0],
                label_probability=0.5 + 0.1 * example.row,
                win_probabilities=[0.5 + 0.1 * example.row, 0.3],
                game=example.row == 3,
            )
            for example in examples
        ]
    if kind is DataKind.COMPARISONS:
        return [_in_both_orders(example) for example in examples]
    if kind is DataKind.RANKED:
        return [_ranked(example, tokens) for example in examples]
    singles = [
        example._replace(
            ids=example.ids[:1], prompt_lengths=example.prompt_lengths[:1], pairs=[],
            masks=None if example.masks is None else example.masks[:1],
        )
        for example in examples
    ]  # fmt: skip
    if kind is DataKind.STEPS:
        return [_in_steps(example, masked) for example in singles]
    if kind is DataKind.RATED:
        return [example._replace(label=None, ratings=_ratings(example.row)) for example in singles]
    if kind is DataKind.SCORED:
        return [example._replace(label=None, scores=[0.2 * example.row]) for example in singles]
    if kind is DataKind.JUDGED:
        return [example if example.label else _again(example, after=tokens(4)) for example in _swapped(singles)]
    if kind is DataKind.PARAPHRASED:
        return [_again(example, instead=tokens(3 + example.row)) for example in singles]
    if kind is DataKind.CONTEXTUAL:
        return [_again(example, before=tokens(2 + example.row)) for example in singles]
    return singles


def _ranked(example: Example, tokens: Callable[[int], list[int]]) -> Example:
    """A list of two to four responses, not in the order of their scores."""
    prompt = example.ids[0][: example.prompt_lengths[0]]
    more = [] if example.row == 2 else [prompt + tokens(3 + example.row) for _ in range(example.row % 3)]
    scores = [0.4, 0.9, 0.7, 0.1][: 2 + len(more)]
    ids = [*example.ids, *more]
    return example._replace(ids=ids, prompt_lengths=[len(prompt)] * len(ids), pairs=[], scores=scores, label=None)


def _in_both_orders(example: Example) -> Example:
    """Both responses in one text."""
    start = example.prompt_lengths[0]
    (prompt, first), (_, second) = ((ids[:start], ids[start:]) for ids in example.ids)
    return example._replace(ids=[prompt + first + second, prompt + second + first], masks=None)


def _in_steps(example: Example, masked: bool) -> Example:
    """A solution of which the last token ends a step, and the second one as well; of row 2, where not masked."""
    length = len(example.ids[0]) - example.prompt_lengths[0]
    ends = {length - 1} if example.row == 2 and masked else {1, length - 1}
    labels = [0.75, 0.0] if example.row % 2 else [1.0, 1.0]
    return example._replace(
        masks=[[int(place in ends) for place in range(length)]], step_labels=labels[-len(ends) :], label=None
    )


def _ratings(row: int) -> list[float]:
    """Of five attributes, one of which most rows lack."""
    return [float((row + place) % 5) if (row + place) % 4 else nan for place in range(5)]


def _swapped(examples: list[Example]) -> list[Example]:
    """The example with a mask is an undesirable one."""
    return [example._replace(label=not example.label) for example in examples]


def _again(
    example: Example,
    *,
    before: Sequence[int] = (),
    after: Sequence[int] = (),
    instead: Sequence[int] | None = None,
) -> Example:
    """The same completion once more, after a longer prompt or another one."""
    prompt, completion = example.ids[0][: example.prompt_lengths[0]], example.ids[0][example.prompt_lengths[0] :]
    other = [*before, *(prompt if instead is None else instead), *after]
    return example._replace(
        ids=[*example.ids, other + completion],
        prompt_lengths=[len(prompt), len(other)],
        masks=None if example.masks is None else example.masks * 2,
    )


def collated(module: AlignmentModule, examples: Sequence[Example], layout: Layout, pad_id: int = 0) -> Batch:
    """One batch of the examples."""
    collate = Collator(
        module.data_kind, layout, score_prompts=module.score_prompts, pad_id=pad_id, mismatched=module.needs_kl
    )
    return collate(Drawn(examples))


def scored(module: AlignmentModule, batch: Batch) -> Scored:
    """Loss, gradient and metrics of a batch by itself, as if it were the first."""
    module.zero_grad()
    module.meter.reset()
    running = {
        name: buffer.clone()
        for name, buffer in module.named_buffers()
        if not name.startswith(("policy.", "reference.", "positive."))
    }
    torch.manual_seed(0)
    terms = module.terms(batch)
    with torch.no_grad():
        for name, before in running.items():
            module.get_buffer(name).copy_(before)
    loss = reduce_terms(terms, batch.counts())
    loss.backward()
    gradient = torch.cat([p.grad.flatten() for p in module.policy.parameters() if p.grad is not None])
    values = torch.stack([term.values.detach() for term in terms.values()]).sum(0)
    return Scored(loss.detach(), values, gradient, module.meter.compute())


def named_terms(module: AlignmentModule, inputs: tuple[Any, ...], facts: dict[str, Any]) -> dict[str, Term]:
    """What a batch's base class makes of `losses`."""
    if isinstance(module, RatedRewardModule):
        return module.rating_terms(*inputs, **facts)
    losses = module.losses(*inputs, **facts)
    if module.head == "tokens" or getattr(module, "every_token", False):
        return {"loss": Term(losses, Per.TOKENS)}
    return as_terms(losses)


def assert_same(one: Scored, other: Scored, rtol: float = 1e-7) -> None:
    """Two batches come to the same; norms that compute in float32 bound how exactly."""
    torch.testing.assert_close(one.loss, other.loss, rtol=rtol, atol=rtol)
    torch.testing.assert_close(one.values, other.values, rtol=rtol, atol=rtol)
    scale = other.gradient.abs().max().item()
    torch.testing.assert_close(one.gradient, other.gradient, rtol=0, atol=10 * rtol * scale)
    for name, value in other.metrics.items():
        torch.testing.assert_close(torch.tensor(one.metrics[name]), torch.tensor(value), rtol=1e-5, atol=1e-6)


def widened(rows: Rows, columns: int, token: int) -> Rows:
    """Padded rows with more padding, filled with another token."""
    count, width = rows.input_ids.shape
    more = torch.full((count, columns), token)
    inside = torch.arange(width)[None] < rows.row_lengths[:, None]
    return rows._replace(
        input_ids=torch.cat([torch.where(inside, rows.input_ids, token), more], 1),
        position_ids=torch.arange(width + columns).expand(count, -1),
        pred_index=rows.pred_index + rows.pred_index // width * columns,
        last_index=rows.last_index + rows.last_index // width * columns,
        token_index=rows.token_index + rows.token_index // width * columns,
    )
