"""What the processes of the distributed tests run: real methods on a tiny Llama and texts of unequal lengths."""

from __future__ import annotations

import logging
import math
import os
import random
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import lightning as L

# Once for all forked processes: it takes seconds.
import peft  # noqa: F401
import torch
from torch import Tensor
from torch.distributed.tensor import DTensor

from lit_align.core.batch import DataKind, Example
from lit_align.core.fsdp2 import FSDP2Strategy
from lit_align.core.layout import build_rows
from lit_align.core.module import AlignmentModule
from lit_align.data.batching import Budget
from lit_align.data.collate import Collator, Drawn
from lit_align.data.loader import BatchLoader, ResumableLoader, Run
from lit_align.data.sampler import ResumableBatchSampler
from lit_align.data.store import size_of
from lit_align.methods.bradley_terry import BradleyTerry
from lit_align.methods.dpo import DPO
from lit_align.methods.kto import KTO
from lit_align.methods.orpo import ORPO
from lit_align.methods.sft import SFT

METHODS: dict[str, Callable[..., AlignmentModule]] = {
    "dpo": partial(DPO, beta=0.3),
    "orpo": partial(ORPO, beta=0.5),
    "kto": partial(KTO, beta=0.3),
    "sft": SFT,
    "bradley_terry": partial(BradleyTerry, center=0.05),
}
VALIDATION_EXAMPLES = 7


Options = tuple[tuple[str, Any], ...]
"""Keyword arguments, in a form that can be hashed."""


@dataclass(frozen=True)
class Job:
    """One training run."""

    method: str
    model: str
    strategy: str = "auto"
    """auto (one process), ddp or fsdp2."""
    rows: int = 8
    """Examples per micro-batch and rank."""
    accumulate: int = 1
    examples: int = 14
    """By default not a multiple of any batch size here: the last step of an epoch is smaller than the others."""
    epochs: int = 2
    sgd: float | None = 0.05
    """Learning rate of plain gradient descent, which unlike Adam shows a wrong scale; None for the default AdamW."""
    module: Options = ()
    strategy_options: Options = ()
    trainer: Options = ()
    callbacks: tuple[Callable[[], L.Callback], ...] = ()
    shuffle: bool = False
    validate: bool = False
    lonely_rank: bool = False
    """KTO: only even rows have a mismatched completion, so that some micro-batches have none."""
    resume: str | None = None


@dataclass
class Result:
    """What a run has shown, on one rank."""

    steps: list[dict[str, float]]
    """Logged metrics of each optimiser step."""
    validation: list[dict[str, float]]
    """Logged metrics of each validation."""
    weights: dict[str, Tensor]
    """Whole weights of policy and reference after training."""
    local: dict[str, tuple[int, int]]
    """Of each parameter, how many numbers this rank holds, and how many there are."""


def run(job: Job) -> Result:
    """Trains in this process, as one rank."""
    module, trainer, recorder = prepare(job)
    trainer.fit(module, Data(job), ckpt_path=job.resume)
    return Result(recorder.steps, recorder.validation, whole_weights(module), local_sizes(module))


def prepare(job: Job) -> tuple[AlignmentModule, L.Trainer, Recorder]:
    """The module and the trainer of a job."""
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    warnings.simplefilter("ignore")
    L.seed_everything(7, verbose=False)
    options: dict[str, Any] = {"schedule": "constant", "warmup_ratio": 0.0, "learning_rate": 1e-3}
    if job.sgd is not None:
        options["optimizer"] = partial(torch.optim.SGD, lr=job.sgd)
    module = METHODS[job.method](policy=job.model, **(options | dict(job.module)))
    recorder = Recorder()
    settings = {"logger": False, "enable_checkpointing": False} | dict(job.trainer)
    trainer = L.Trainer(
        accelerator="cpu",
        devices=int(os.environ.get("WORLD_SIZE", "1")),
        strategy=FSDP2Strategy(**dict(job.strategy_options)) if job.strategy == "fsdp2" else job.strategy,
        max_epochs=job.epochs,
        accumulate_grad_batches=job.accumulate,
        limit_val_batches=None if job.validate else 0,
        num_sanity_val_steps=0,
        enable_progress_bar=False,
        enable_model_summary=False,
        use_distributed_sampler=False,
        callbacks=[recorder, *(make() for make in job.callbacks)],
        **settings,
    )
    return module, trainer, recorder


class Recorder(L.Callback):
    """Keeps what was logged."""

    def __init__(self) -> None:
        self.steps: list[dict[str, float]] = []
        self.validation: list[dict[str, float]] = []
        self._step = 0

    def on_train_start(self, trainer: L.Trainer, module: AlignmentModule) -> None:
        self._step = trainer.global_step

    def on_train_batch_end(self, trainer: L.Trainer, module: AlignmentModule, *args: Any) -> None:
        if trainer.global_step > self._step:
            assert module.last_step is not None
            self.steps.append(dict(module.last_step.metrics))
            self._step = trainer.global_step

    def on_validation_end(self, trainer: L.Trainer, module: AlignmentModule) -> None:
        metrics = {name: float(value) for name, value in trainer.callback_metrics.items()}
        self.validation.append({name: value for name, value in metrics.items() if name.startswith("val/")})


class Data(L.LightningDataModule):
    """Examples made from a seed, through the loaders of the real data module."""

    def __init__(self, job: Job) -> None:
        super().__init__()
        self.job = job
        self.pending: dict[str, Any] | None = None

    def train_dataloader(self) -> ResumableLoader:
        examples = make_examples(self._kind, self.job.examples, seed=1)
        self.loader = ResumableLoader(
            examples,
            self._sampler(examples, shuffle=self.job.shuffle, remainder="wrap"),
            self._collator(),
            Run(accumulation=lambda: self.trainer.accumulate_grad_batches, restore=self._take_pending),
        )
        return self.loader

    def val_dataloader(self) -> BatchLoader:
        examples = make_examples(self._kind, VALIDATION_EXAMPLES, seed=2)
        return BatchLoader(examples, self._sampler(examples, shuffle=False, remainder="join"), self._collator())

    def state_dict(self) -> dict[str, Any]:
        return self.loader.state_dict()

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.pending = state_dict

    def _take_pending(self) -> dict[str, Any] | None:
        pending, self.pending = self.pending, None
        return pending

    @property
    def _kind(self) -> DataKind:
        return self.trainer.lightning_module.data_kind

    def _sampler(self, examples: Sequence[Example], **options: Any) -> ResumableBatchSampler:
        return ResumableBatchSampler(
            [size_of(example) for example in examples],
            Budget(self.job.rows),
            rank=self.trainer.global_rank,
            world_size=self.trainer.world_size,
            bucket=False,
            **options,
        )

    def _collator(self) -> Collator:
        module = self.trainer.lightning_module
        make = partial(FixedPartners, self.job.lonely_rank) if module.data_kind is DataKind.UNPAIRED else Collator
        return make(module.data_kind, module.resolved_layout, score_prompts=module.score_prompts)


class FixedPartners(Collator):
    """Mismatches the same rows however examples are dealt to ranks; the real one does so within a micro-batch."""

    def __init__(self, lonely_rank: bool, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.lonely_rank = lonely_rank

    def __call__(self, drawn: Drawn) -> Any:
        partners = [partner(example) for example in drawn.examples if not self.lonely_rank or example.row % 4 < 2]
        return super().__call__(drawn)._replace(kl_rows=build_rows(partners, self.layout) if partners else None)


def make_examples(kind: DataKind, count: int, seed: int) -> list[Example]:
    """Texts of 2 to 24 random tokens, so that ranks and micro-batches differ in what they hold."""
    draw = random.Random(seed)

    def text(shortest: int, longest: int) -> list[int]:
        return [draw.randrange(4, 260) for _ in range(draw.randint(shortest, longest))]

    examples = []
    for row in range(count):
        prompt = text(2, 12)
        completions = [text(2, 24) for _ in range(2 if kind in (DataKind.PAIRS, DataKind.COMPARISONS) else 1)]
        if kind is DataKind.RANKED:
            completions = [text(2, 24) for _ in range(2 + row % 3)]
        prompts = [prompt] * len(completions)
        label = draw.random() < 0.6 if kind in (DataKind.UNPAIRED, DataKind.JUDGED) else None
        if kind is DataKind.PARAPHRASED or (kind is DataKind.JUDGED and not label):
            prompts, completions = [prompt, text(2, 12)], completions * 2
        if kind is DataKind.CONTEXTUAL:
            prompts, completions = [prompt, text(2, 12) + prompt], completions * 2
        if kind is DataKind.COMPARISONS:
            completions = [completions[0] + completions[1], completions[1] + completions[0]]
        scored = kind in (DataKind.PAIRS, DataKind.RANKED, DataKind.SCORED)
        scores = [0.9 - 0.2 * k - 0.01 * row for k in range(len(completions))] if scored else None
        examples.append(
            Example(
                row=row,
                ids=[start + completion for start, completion in zip(prompts, completions, strict=True)],
                prompt_lengths=[len(start) for start in prompts],
                pairs=[(0, 1)] if kind is DataKind.PAIRS else [],
                margins=[0.2] if kind is DataKind.PAIRS else None,
                label=label,
                scores=scores,
                timestamp=float(row % 5) if kind is DataKind.PAIRS else None,
                safe=[row % 4 > 0, False] if kind is DataKind.PAIRS else None,
                label_probability=0.9 - 0.1 * (row % 4) if kind is DataKind.PAIRS else None,
                win_probabilities=[0.6, 0.1 * (row % 5)] if kind is DataKind.PAIRS else None,
                game=row % 3 == 1 if kind is DataKind.PAIRS else None,
                ratings=[float((row + k) % 5) if (row + k) % 4 else math.nan for k in range(5)],
            )
        )
    return [in_steps(example) for example in examples] if kind is DataKind.STEPS else examples


def in_steps(example: Example) -> Example:
    """The second token ends a step, and in some rows the last one as well."""
    length = len(example.ids[0]) - example.prompt_lengths[0]
    ends = {1, length - 1 if example.row % 3 else 1}
    mask = [int(place in ends) for place in range(length)]
    return example._replace(masks=[mask], step_labels=[1.0, 0.25][: len(ends)])


def partner(example: Example) -> Example:
    """The example's prompt with a completion that follows from its row."""
    draw = random.Random(1000 + example.row)
    prompt = example.ids[0][: example.prompt_lengths[0]]
    completion = [draw.randrange(4, 260) for _ in range(draw.randint(2, 12))]
    return example._replace(ids=[prompt + completion])


def whole_weights(module: AlignmentModule) -> dict[str, Tensor]:
    """All parameters as a single process has them; the same on every rank."""
    return {
        name: (parameter.full_tensor() if isinstance(parameter, DTensor) else parameter).detach().clone()
        for name, parameter in module.named_parameters()
    }


def local_sizes(module: AlignmentModule) -> dict[str, tuple[int, int]]:
    """For each parameter, the numbers on this rank and in all."""
    return {
        name: ((p.to_local() if isinstance(p, DTensor) else p).numel(), p.numel())
        for name, p in module.named_parameters()
    }
