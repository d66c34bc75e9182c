"""One DataModule for all methods: it reads what the method learns from, and reports what became of every row."""

from __future__ import annotations

import json
import random
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

from lightning.pytorch import LightningDataModule
from transformers import GenerationConfig, PreTrainedTokenizerBase

from lit_align.core.batch import DataKind, Layout
from lit_align.core.errors import ConfigError, DataError
from lit_align.core.pretrained import load_tokenizer
from lit_align.data.batching import Budget
from lit_align.data.cache import default_folder
from lit_align.data.collate import Collator
from lit_align.data.loader import BatchLoader, ResumableLoader
from lit_align.data.pipeline import Pipeline, Recipe
from lit_align.data.report import DataReport
from lit_align.data.sampler import ResumableBatchSampler
from lit_align.data.store import ExampleStore
from lit_align.data.templates import resolve_template
from lit_align.data.tokenise import OnOverlong, pad_id

Split = Literal["train", "validation", "test", "predict"]
_STAGES: dict[str, tuple[Split, ...]] = {
    "fit": ("train", "validation"),
    "validate": ("validation",),
    "test": ("test",),
    "predict": ("predict",),
}


class PreferenceDataModule(LightningDataModule):
    """Data of every kind that a method may learn from; the method says which it needs.

    A source is a file (JSON lines, JSON, CSV, also gzipped; Parquet), a folder of such files or one saved by
    `datasets`, or a name on the hub; `source@split` names a split.

    Args:
        train: source to learn from.
        validation: source of held-out data; or see `val_split`.
        test: source for `lit-align test`.
        predict: source of prompts for `lit-align generate` and of responses for `lit-align score`.
        tokenizer: folder or hub name; None: the policy's.
        convert: makes another kind of data: best_worst, all_pairs, adjacent_pairs, pairs_to_unpaired,
            pairs_to_chosen, ranked_to_best.
        columns: names of columns, as `name here: name in the file`; null leaves a column out.
        format: name of the format, where it cannot be told from the columns.
        val_split: rows (an integer) or share (below 1) of `train` to hold out, if there is no `validation`. A
            prompt never stands on both sides.
        split_seed: decides which.
        batch_size: examples per micro-batch and process.
        max_tokens_per_batch: tokens per micro-batch and process, padding included, in place of `batch_size`.
        bucket: batch examples of similar lengths.
        shuffle: a new random order every epoch.
        seed: of the order.
        drop_last: leave out the examples that do not fill a batch on every process, rather than make some
            batches smaller.
        max_length: most tokens of prompt and completion; never more than the tokenizer allows.
        max_prompt_length: most tokens of the prompt; None: half of `max_length`.
        on_overlong: stop at a longer row, drop it, or cut the prompt from the left, the completion from the right.
        on_bad_row: stop at a malformed row, or drop and count it.
        on_no_preference: stop at a row that prefers nothing, or drop and count it.
        chat_template: Jinja text or file, or `chatml` or `transcript`; None: the tokenizer's.
        chat_template_kwargs: arguments of the template.
        system_prompt: put before conversations that have none.
        eos_token: token that ends a completion; None: the tokenizer's.
        train_on: turns of a multi-turn demonstration that are learnt.
        as_chat: make a user's and an assistant's turn of plain prompts and completions.
        separator: stands between a plain prompt and its completion.
        cache_dir: where tokenised data are kept; None: `$LIT_ALIGN_CACHE`, or in the user's cache folder.
        num_workers: processes that load batches; tokenised text is read faster without.
    """

    def __init__(
        self,
        train: str | None = None,
        validation: str | None = None,
        test: str | None = None,
        predict: str | None = None,
        tokenizer: str | None = None,
        convert: str | None = None,
        columns: dict[str, str | None] | None = None,
        format: str | None = None,
        val_split: float | int = 0,
        split_seed: int = 0,
        batch_size: int = 8,
        max_tokens_per_batch: int | None = None,
        bucket: bool = True,
        shuffle: bool = True,
        seed: int = 0,
        drop_last: bool = False,
        max_length: int = 1024,
        max_prompt_length: int | None = None,
        on_overlong: OnOverlong = "truncate",
        on_bad_row: Literal["error", "drop"] = "error",
        on_no_preference: Literal["error", "drop"] = "drop",
        chat_template: str | None = None,
        chat_template_kwargs: dict[str, Any] | None = None,
        system_prompt: str | None = None,
        eos_token: str | None = None,
        train_on: Literal["last", "all"] = "all",
        as_chat: bool = False,
        separator: str = "",
        cache_dir: str | None = None,
        num_workers: int = 0,
    ) -> None:
        super().__init__()
        self.sources: dict[str, str | None] = {
            "train": train, "validation": validation, "test": test, "predict": predict,
        }  # fmt: skip
        self.recipe = Recipe(
            convert=convert,
            columns=columns or {},
            format=format,
            on_bad_row=on_bad_row,
            on_no_preference=on_no_preference,
            max_length=max_length,
            max_prompt_length=max_prompt_length,
            on_overlong=on_overlong,
            system_prompt=system_prompt,
            chat_template_kwargs=chat_template_kwargs or {},
            train_on=train_on,
            as_chat=as_chat,
            separator=separator,
        )
        self.tokenizer_name = tokenizer
        self.chat_template = chat_template
        self.eos_token = eos_token
        self.val_split, self.split_seed = val_split, split_seed
        self.batch_size, self.max_tokens_per_batch = batch_size, max_tokens_per_batch
        self.bucket, self.shuffle, self.seed, self.drop_last = bucket, shuffle, seed, drop_last
        self.cache_dir = Path(cache_dir) if cache_dir is not None else default_folder()
        self.num_workers = num_workers
        self.predict_kind = DataKind.PROMPTS
        """What `predict` data are read as; `lit-align score` sets another."""
        self.reports: dict[str, DataReport] = {}
        self._stores: dict[str, ExampleStore] = {}
        self._tokenizer: PreTrainedTokenizerBase | None = None
        self._loader: ResumableLoader | None = None
        self._pending: dict[str, Any] | None = None
