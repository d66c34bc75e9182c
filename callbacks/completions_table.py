"""What the model writes, while it is being trained."""

from __future__ import annotations

from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.utilities.seed import isolate_rng
from transformers import PreTrainedTokenizerBase

from lit_align.core.batch import DataKind, Example
from lit_align.core.errors import ConfigError
from lit_align.core.gathering import gathered
from lit_align.core.steps import OptimizerStepCallback
from lit_align.data.lookup import loaded_examples
from lit_align.data.pipeline import Pipeline, Recipe
from lit_align.data.report import DataReport
from lit_align.evaluation.jsonl_file import JsonlFile, Mark
from lit_align.rollouts.hf import Completion, generate

if TYPE_CHECKING:
    from lit_align.core.module import AlignmentModule

_COLUMNS = ["step", "prompt", "completion"]


class CompletionsTable(OptimizerStepCallback):
    """Completes a few prompts before, during and after training.

    Completions go to `<default_root_dir>/completions.jsonl` (step, prompt, completion, tokens, finished), and as
    text or a table to the loggers that take such. Training is not touched: random numbers, dropout and gradients
    are as if nothing had been generated, and a resumed run has the completions of one that was never interrupted.

    Args:
        every_n_steps: optimiser steps between two rounds.
        num_prompts: how many prompts.
        max_new_tokens: longest completion, tokens.
        prompts: a file or data set with the prompts, of any kind that the data module reads; by default the first
            ones of the validation data, or of the training data where there are no others.
        temperature: 0 takes the likeliest token each time.
        top_p: sample from the likeliest tokens that have this probability together.
        seed: of the sampling; the same in every round, so that rounds compare.
        batch_size: prompts at a time.

    Raises:
        ConfigError: a number is out of range, or there are no prompts.
    """

    def __init__(
        self,
        every_n_steps: int = 100,
        num_prompts: int = 8,
        max_new_tokens: int = 64,
        prompts: str | None = None,
        temperature: float = 0.0,
        top_p: float = 1.0,
        seed: int = 0,
        batch_size: int = 8,
    ) -> None:
        for name, value in (("every_n_steps", every_n_steps), ("num_prompts", num_prompts)):
            if value < 1:
                raise ConfigError(f"CompletionsTable needs a positive {name}", got=f"{name}: {value}", fix="1 or more")
        self.every_n_steps = every_n_steps
        self.num_prompts = num_prompts
        self.prompts = prompts
        self.sampling: dict[str, Any] = {
            "max_new_tokens": max_new_tokens,
            "temperature": temperature,
            "top_p": top_p,
            "seed": seed,
            "batch_size": batch_size,
        }
        self.file: JsonlFile | None = None
        self._tokenizer: PreTrainedTokenizerBase
        self._prompt_ids: list[list[int]] = []
        # Where the file ended at the checkpoint from which training resumes.
        self._mark: Mark | None = None
        self._generated_at: int | None = None

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Find the prompts; a new run begins a new file and completes them before its first step."""
        super().on_train_start(trainer, pl_module)
        self._tokenizer = _tokenizer(trainer)
        self._prompt_ids = self._find_prompts(trainer)
        self.file = JsonlFile(Path(trainer.default_root_dir) / "completions.jsonl")
        if trainer.is_global_zero and self._mark is not None:
            self.file.cut(self._mark)
        if self._step == 0 and self._mark is None:
            if trainer.is_global_zero:
                self.file.start_over()
            self._generate(trainer, pl_module)
        self._mark = None

    def after_optimizer_step(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Complete the prompts if a round is due."""
        if self._step % self.every_n_steps == 0:
            self._generate(trainer, pl_module)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Complete the prompts once more, unless the last step was one of those above."""
        if self._generated_at != trainer.global_step:
            self._generate(trainer, pl_module)

    def state_dict(self) -> dict[str, Any]:
        """Where the file ends, and when it was last written to."""
        return {"file": None if self.file is None else self.file.mark(), "generated_at": self._generated_at}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on from `state_dict`."""
        self._mark, self._generated_at = state_dict["file"], state_dict["generated_at"]

    def _generate(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Complete and write on rank 0; the other ranks lend their shards of the weights."""
        self._generated_at = trainer.global_step
        policy = cast("AlignmentModule", pl_module).policy
        if not trainer.is_global_zero:
            with gathered(policy):
                return
        with isolate_rng():
            completions = generate(policy, self._tokenizer, self._prompt_ids, **self.sampling)
        rows = [self._write(trainer.global_step, completion) for completion in completions]
        for logger in trainer.loggers:
            _log(logger, rows, trainer.global_step)

    def _write(self, step: int, completion: Completion) -> list[Any]:
        assert self.file is not None
        prompt = self._tokenizer.decode(completion.prompt, skip_special_tokens=True)
        row = [step, prompt, completion.text]
        record = dict(zip(_COLUMNS, row, strict=True))
        self.file.append(record | {"tokens": len(completion.ids), "finished": completion.finished})
        return row

    def _find_prompts(self, trainer: Trainer) -> list[list[int]]:
        """Token ids of the first different prompts."""
        examples = self._read_prompts(trainer) if self.prompts else loaded_examples(trainer)
        found: dict[tuple[int, ...], None] = {}
        for example in examples:
            prompt = example.ids[0][: example.prompt_lengths[0]]
            if prompt:
                found[tuple(prompt)] = None
            if len(found) == self.num_prompts:
                break
        if not found:
            raise ConfigError(
                "CompletionsTable has no prompts",
                got="data without prompts" if self.prompts is None else f"prompts: {self.prompts}",
                fix="name a file with a `prompt` column as prompts:, or remove CompletionsTable",
            )
        return [list(prompt) for prompt in found]

    def _read_prompts(self, trainer: Trainer) -> list[Example]:
        assert self.prompts is not None
        # Written as the training data are, but the file has columns of its own.
        recipe = getattr(trainer.datamodule, "recipe", Recipe())
        pipeline = Pipeline(replace(recipe, convert=None, columns={}, format=None), self._tokenizer, DataKind.PROMPTS)
        records = pipeline.records(self.prompts, DataReport(self.prompts), training=False)
        return [record.example for record in islice(records, self.num_prompts)]


def _tokenizer(trainer: Trainer) -> PreTrainedTokenizerBase:
    tokenizer = getattr(trainer.datamodule, "tokenizer", None)
    if tokenizer is None:
        raise ConfigError(
            "CompletionsTable needs a tokenizer",
            got="a run without PreferenceDataModule, or one whose data module has no `tokenizer`",
            fix="train with PreferenceDataModule, or remove CompletionsTable",
        )
    return cast("PreTrainedTokenizerBase", tokenizer)


def _log(logger: Any, rows: list[list[Any]], step: int) -> None:
    """Hand the rows to a logger that takes tables (Weights & Biases) or text (TensorBoard)."""
    if hasattr(logger, "log_table"):
        logger.log_table("completions", columns=_COLUMNS, data=rows, step=step)
    elif hasattr(logger, "experiment") and hasattr(logger.experiment, "add_text"):
        for number, (_, prompt, completion) in enumerate(rows):
            logger.experiment.add_text(f"completions/{number}", f"{prompt}\n\n---\n\n{completion}", step)
