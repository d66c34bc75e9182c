"""The sets of a run: where they come from, how they become examples, and what is reported about them."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from transformers import PreTrainedTokenizerBase

from lit_align.core.batch import DataKind, Example
from lit_align.core.errors import ConfigError, DataError
from lit_align.core.pretrained import load_tokenizer
from lit_align.data.cache import default_folder
from lit_align.data.checks import check_split_labels
from lit_align.data.demands import demands_of
from lit_align.data.length_balance import BalanceLengths, balance_examples
from lit_align.data.pipeline import Pipeline, Preview, Recipe
from lit_align.data.report import DataReport, count_labels
from lit_align.data.sources import Source
from lit_align.data.splits import hold_out
from lit_align.data.store import ExampleStore
from lit_align.data.templates import resolve_template
from lit_align.data.text_settings import TextSettings, unlike_exported
from lit_align.data.tokenizers import adjusted, end_tokens, most_positions
from lit_align.references import Precomputed


@dataclass
class DataSets:
    """Settings of `PreferenceDataModule` that concern examples, and the examples once they are made.

    The method that is to learn from them is asked for its name, its policy and the kind of its data.
    """

    sources: dict[str, Source | None]
    """By split: train, validation, test, predict."""
    recipe: Recipe
    tokenizer_name: str | None = None
    chat_template: str | None = None
    eos_token: str | None = None
    val_split: float = 0
    split_seed: int = 0
    balance_lengths: BalanceLengths | None = None
    cache_dir: Path = field(default_factory=default_folder)
    method: Any = None
    """An `AlignmentModule`, or None where there is no trainer."""
    predict_kind: DataKind = DataKind.PROMPTS
    """What `predict` data are read as."""
    reports: dict[str, DataReport] = field(default_factory=dict)
    stores: dict[str, ExampleStore] = field(default_factory=dict)
    """Sets that a stage has opened."""
    _tokenizer: PreTrainedTokenizerBase | None = None

    # ---------------------------------------------------------------- examples

    def build(self, split: str, kind: DataKind | None = None) -> ExampleStore:
        """All examples of the source that a split is read from, from the cache if they are there.

        Args:
            split: name of the split.
            kind: what they are for; None: see `kind_of`.

        Raises:
            ConfigError: there are no such data, or the settings do not fit them.
            DataError: the data cannot be used.
        """
        source = self.source(split)
        pipeline = self.pipeline(kind or self.kind_of(split))
        store, report = pipeline.cached(source, self.cache_dir, training=self._is_trained_on(split))
        if pipeline.recipe.max_length < self.recipe.max_length:
            report.notes.append(f"max_length {pipeline.recipe.max_length}: model and tokenizer allow no more")
        report.notes += [] if self._model is None else unlike_exported(self._model, self.recipe)
        self.reports[split] = report
        return store

    def examples(self, split: str, kind: DataKind | None = None) -> ExampleStore:
        """The examples of a split, without those that are held out for another; see `build`."""
        if split in self.stores and kind is None:
            return self.stores[split]
        store = self._part(split, kind)
        if split == "train" and self.balance_lengths and (kind or self.kind_of(split)) in (None, DataKind.PAIRS):
            self.check_balance()
            return self._balanced(store, self.balance_lengths)
        return store

    def _part(self, split: str, kind: DataKind | None) -> ExampleStore:
        """The examples of a split without those that are held out for another."""
        store = self.build(split, kind)
        if self.is_split and split in ("train", "validation"):
            kept, held_out = hold_out(store.groups, self.val_split, self.split_seed)
            training = store.select(kept)
            labels = f" ({count_labels(training.labels)})" if training.labels else ""
            note = f"split by prompt: {len(kept)} examples to learn from{labels}, {len(held_out)} held out"
            self.reports[split].notes.append(note)
            if split == "validation":
                return store.select(held_out)
            asked = kind or self.kind_of(split)
            if asked in (None, DataKind.UNPAIRED) and demands_of(self.method, asked).both_labels:
                check_split_labels(training.labels, str(self.source(split)), self.val_split, self.split_seed)
            return training
        return store

    def _balanced(self, store: ExampleStore, how: BalanceLengths) -> ExampleStore:
        """The pairs to learn from, balanced in length; see `length_balance`."""
        report = self.reports["train"]
        try:
            balanced = balance_examples(store, how, self.split_seed)
        except DataError as error:
            raise DataError(
                error.what, file=report.source, field=error.field, value=error.value, fix=error.fix
            ) from error
        for row, reason in balanced.left_out:
            report.leave_out(row, {reason: 1})
        report.notes.append(balanced.note)
        return balanced.examples

    def preview(self, split: str, rows: int) -> Preview:
        """The first rows of a split as they are and as examples; reads no more than these."""
        return self.pipeline(self.kind_of(split)).first(self.source(split), rows)

    def fingerprint(self, split: str) -> str:
        """Changes with the rows of a split, the tokenizer, the template and the limits."""
        key = self.pipeline(self.kind_of(split)).key(self.source(split), training=self._is_trained_on(split))
        key = f"{key}/{self.val_split}/{self.split_seed}/{split}" if self.is_split else key
        return f"{key}/{self.balance_lengths}/{self.split_seed}" if self.balance_lengths and split == "train" else key

    def pipeline(self, kind: DataKind | None) -> Pipeline:
        """The way from rows to examples of a kind; None: of the kind that the data are."""
        return Pipeline(
            self.allowed_recipe(),
            self.tokenizer,
            kind,
            learner="This method" if self.method is None else type(self.method).__name__,
            end_tokens=end_tokens(self._model, self.tokenizer),
            demands=demands_of(self.method, kind),
        )

    # ---------------------------------------------------------------- what settings and method say

    def source(self, split: str) -> Source:
        """Where a split is read from.

        Raises:
            ConfigError: there is nothing to read it from.
        """
        source = self.sources["train" if split == "validation" and self.is_split else split]
        if source is None:
            raise ConfigError(
                f"There are no '{split}' data.",
                got=f"data.{split} is not set",
                fix=f"Set data.{split} to a file, a folder or a name on the hub.",
            )
        return source

    def has(self, split: str) -> bool:
        """Whether there are data for a split."""
        return self.sources[split] is not None or (split == "validation" and self.is_split)

    @property
    def is_split(self) -> bool:
        """Whether validation data are held out from the training data."""
        return self.sources["validation"] is None and self.sources["train"] is not None and self.val_split != 0

    def check_reference(self, *, streamed: bool) -> None:
        """Refuse a precomputed reference that cannot know all values, before it has scored what it can.

        Args:
            streamed: whether training data are read while training.

        Raises:
            ConfigError: what is to be scored is not known before training.
        """
        choice = getattr(self.method, "reference_choice", None)
        if choice != "precomputed" and not isinstance(choice, Precomputed):
            return
        if getattr(self.method, "needs_kl", False):
            raise ConfigError(
                f"{type(self.method).__name__} scores mismatched completions, which change with every shuffle and "
                "cannot be cached",
                got="reference: precomputed",
                fix="use reference: auto",
            )
        if not streamed:
            return
        examples = [example for _, example in self.preview("train", 8).rows if isinstance(example, Example)]
        if any(example.reference_logps is None for example in examples):
            raise ConfigError(
                "streamed data cannot be scored before training",
                got="reference: precomputed, data.streaming: true, and rows without columns such as ref_chosen_logps",
                fix="use reference: auto, or data.streaming: false",
            )

    def check_balance(self, *, streamed: bool = False) -> None:
        """Refuse to balance lengths where that cannot be done, or would not be heeded.

        Args:
            streamed: whether training data are read while training.

        Raises:
            ConfigError: the method learns from something else than pairs or does not weigh them, or nobody knows all
                lengths before training.
        """
        how, name = self.balance_lengths, type(self.method).__name__
        if how is None:
            return
        got = f"data.balance_lengths: {how}"
        if streamed:
            fix = "Leave data.balance_lengths out, or set data.streaming: false."
            raise ConfigError("the lengths of streamed pairs are not known before training", got=got, fix=fix)
        if self.method is None:
            return
        if getattr(self.method, "data_kind", None) is not DataKind.PAIRS:
            what = f"lengths are balanced between the responses of pairs, and {name} learns from something else"
            raise ConfigError(what, got=got, fix="Leave data.balance_lengths out.")
        if how == "weight" and "weight" not in getattr(self.method, "reads", ()):
            fix = "Set data.balance_lengths: downsample, or use a method that weighs pairs, such as BradleyTerry."
            raise ConfigError(f"{name} does not weigh pairs", got=got, fix=fix)

    def _is_trained_on(self, split: str) -> bool:
        return split == "train" or (split == "validation" and self.is_split)

    def kind_of(self, split: str) -> DataKind | None:
        """What a split is read as; None: as what it is."""
        return self.predict_kind if split == "predict" else getattr(self.method, "data_kind", None)

    @property
    def tokenizer(self) -> PreTrainedTokenizerBase:
        """The tokenizer with the chat template and the EOS token that the settings name.

        Raises:
            ConfigError: none is named, or it cannot be loaded.
        """
        if self._tokenizer is None:
            name = self.tokenizer_name or self._model
            if name is None:
                raise ConfigError(
                    "There is no tokenizer.",
                    got="data without data.tokenizer, and no method that names a policy",
                    fix="Set data.tokenizer, or pass a tokenizer to `examples`.",
                )
            revision, trust = (None, False) if self.tokenizer_name else self._revision_and_trust()
            self.tokenizer = load_tokenizer(name, revision, trust)
        assert self._tokenizer is not None
        return self._tokenizer

    @tokenizer.setter
    def tokenizer(self, tokenizer: PreTrainedTokenizerBase) -> None:
        self._tokenizer = adjusted(tokenizer, self.chat_template, self.eos_token)

    def allowed_recipe(self) -> Recipe:
        """The recipe, with limits on length within what tokenizer and model allow."""
        recipe = self.recipe
        allowed = min(self.tokenizer.model_max_length, most_positions(self._model, *self._revision_and_trust()))
        if recipe.max_length <= allowed:
            return recipe
        prompt = recipe.max_prompt_length
        return replace(recipe, max_length=allowed, max_prompt_length=prompt if prompt and prompt < allowed else None)

    def describe_tokenizer(self) -> dict[str, Any]:
        """What makes tokens of texts, for checkpoints."""
        return {
            "tokenizer": self.tokenizer_name,
            "chat_template": resolve_template(self.chat_template),
            "eos_token": self.eos_token,
            "text": asdict(TextSettings.of(self.recipe)),
        }

    @property
    def _model(self) -> str | None:
        """Folder or hub name of the model."""
        return getattr(self.method, "policy_name", None) or self.tokenizer_name

    def _revision_and_trust(self) -> tuple[str | None, bool]:
        spec = getattr(self.method, "policy_spec", None)
        return (None, False) if spec is None else (spec.revision, spec.trust_remote_code)
