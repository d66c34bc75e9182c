"""A model from a folder or the hub, and how responses become its tokens: what the judges with models have in common."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, Literal, NamedTuple

import torch
from lightning.fabric.utilities import move_data_to_device
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from lit_align.core.batch import DataKind, Example, Layout, Rows
from lit_align.core.errors import ConfigError, DataError
from lit_align.core.forward import RewardScorer, Scorer
from lit_align.core.gathering import gathered
from lit_align.core.layout import build_rows
from lit_align.core.modes import evaluating
from lit_align.core.policy import PolicySpec, build_policy
from lit_align.core.policy_spec import DtypeName
from lit_align.core.pretrained import adapter_base, load_config
from lit_align.core.ranges import positive
from lit_align.data.canonical import CanonicalRow, Completion, Dropped, Format
from lit_align.data.pipeline import Recipe
from lit_align.data.report import DataReport
from lit_align.data.sets import DataSets
from lit_align.data.text_settings import TextSettings, text_settings_of
from lit_align.data.tokenise import Tokeniser, pad_id
from lit_align.rollouts.engine import Prompt

CUT = "cut to the limits on length"


class _Reader(NamedTuple):
    """What the data side asks a method for, to know the model that is to read its tokens."""

    policy_name: str | None
    policy_spec: PolicySpec | None
    data_kind: DataKind | None
    """STEPS for a model that is read at the ends of steps."""


class TextModel:
    """A model that reads prompts with responses, and the settings that make tokens of them.

    Nothing is loaded before it is used.

    Args:
        name: folder or hub name; an adapter is merged into its base model.
        head: see `PolicySpec`.
        batch_size: responses at a time; they are sorted by length.
        max_length: most tokens of prompt and response; never more than model and tokenizer allow. A longer prompt is
            cut from the left, and a response that is too long by itself from the right. None, here and below: as the
            run had it that the folder was exported from; else 1024.
        max_prompt_length: most tokens of the prompt; None, and nothing exported: it is cut only where the two together
            are too long.
        tokenizer: folder or hub name; None: the model's.
        chat_template: Jinja text or file, or `chatml` or `transcript`; None: the tokenizer's.
        system_prompt: put before conversations that have none; None: as exported, else nothing; an empty one: nothing.
        as_chat: make a user's and an assistant's turn of plain prompts and responses; None: as exported, else false.
        separator: stands between a plain prompt and its response; None: as exported, else nothing.
        step_separator: stands behind every step of a response, for a model of steps; None: as exported, else a line
            feed.
        dtype: dtype of the weights; auto: as they were saved.
        device: such as `cuda:0`; None: a GPU where there is one, else the CPU.
        revision: branch, tag or commit on the hub.
        trust_remote_code: run code that comes with the model.
    """

    def __init__(
        self,
        name: str | Path,
        head: Literal["lm", "reward"] = "reward",
        *,
        batch_size: int = 16,
        max_length: int | None = None,
        max_prompt_length: int | None = None,
        tokenizer: str | None = None,
        chat_template: str | None = None,
        system_prompt: str | None = None,
        as_chat: bool | None = None,
        separator: str | None = None,
        step_separator: str | None = None,
        dtype: DtypeName = "float32",
        device: str | None = None,
        revision: str | None = None,
        trust_remote_code: bool = False,
    ) -> None:
        self.name, self.head = str(name), head
        self.batch_size = int(positive("batch_size", batch_size))
        self.revision, self.trust_remote_code = revision, trust_remote_code
        self.dtype, self.device = dtype, device
        self.outputs = 1
        """How many numbers the head has."""
        self._given = {
            "max_length": max_length,
            "max_prompt_length": max_prompt_length,
            "system_prompt": system_prompt,
            "as_chat": as_chat,
            "separator": separator,
            "step_separator": step_separator,
        }
        self._is_live = False
        self.tokenizer_name, self.chat_template = tokenizer, chat_template
        self._scorer: Scorer | RewardScorer | None = None

    # ---------------------------------------------------------------- model

    @cached_property
    def label_names(self) -> list[str]:
        """What the numbers of the head stand for, where the model is a classifier; nothing where it is not one."""
        if adapter_base(self.name, self.revision) is not None:
            return []
        config = load_config(self.name, self.revision, self.trust_remote_code)
        if not self._is_classifier(config):
            return []
        return [str(config.id2label[number]) for number in range(config.num_labels)]

    @staticmethod
    def _is_classifier(config: Any, of: str = "Classification") -> bool:
        return any(name.endswith(of) for name in config.architectures or [])

    @property
    def spec(self) -> PolicySpec:
        """What to build."""
        head: Literal["lm", "reward", "tokens"] = self.head
        if head == "reward" and self.label_names:
            config = load_config(self.name, self.revision, self.trust_remote_code)
            head = "tokens" if self._is_classifier(config, "ForTokenClassification") else head
        return PolicySpec(
            self.name,
            revision=self.revision,
            dtype=self.dtype,
            trust_remote_code=self.trust_remote_code,
            head=head,
            outputs=self.outputs,
            output_names=tuple(self.label_names) if head != "lm" else (),
            # A new head is refused by most; those who allow one get the same each time.
            seed=0,
        )

    @property
    def scorer(self) -> Any:
        """The model behind the core's forward pass; a `Scorer` or a `RewardScorer`.

        Raises:
            ConfigError: the model cannot be read.
        """
        if self._scorer is None:
            device = self.device or ("cuda" if torch.cuda.is_available() else "cpu")
            model = build_policy(self.spec, device)
            self._scorer = (Scorer if self.head == "lm" else RewardScorer)(model.requires_grad_(False))
        return self._scorer

    def use(
        self,
        scorer: Scorer | RewardScorer,
        tokenizer: PreTrainedTokenizerBase,
        settings: TextSettings | None = None,
    ) -> None:
        """Take a model that is there already, such as a policy in training.

        Args:
            scorer: the model.
            tokenizer: the model's.
            settings: how texts become its tokens; None: as this object was told.
        """
        self._scorer, self._is_live = scorer, True
        if settings is not None:
            self.recipe = Recipe(**vars(settings))
        self.sets.tokenizer = tokenizer

    def release(self) -> None:
        """Give back the weights."""
        self._scorer = None

    # ---------------------------------------------------------------- texts

    @cached_property
    def exported(self) -> TextSettings | None:
        """What stands beside the model.

        Raises:
            ConfigError: it cannot be read.
        """
        # A model in training has been told more than the folder that it began with.
        return None if self._is_live else text_settings_of(self.name)

    @cached_property
    def recipe(self) -> Recipe:
        """How texts become tokens: as the settings say, else as it was exported, else as usual."""
        return Recipe(**vars((self.exported or TextSettings()).but(**self._given)))

    @property
    def knows_steps(self) -> bool:
        """Whether anybody has said what ends a step."""
        return self.exported is not None or self._given["step_separator"] is not None

    @cached_property
    def sets(self) -> DataSets:
        """The settings for texts, as `lit-align score` has them."""
        spec = self.spec
        return DataSets(
            {},
            self.recipe,
            tokenizer_name=self.tokenizer_name,
            chat_template=self.chat_template,
            method=_Reader(self.name, spec, DataKind.STEPS if spec.head == "tokens" else None),
        )

    @property
    def tokenizer(self) -> PreTrainedTokenizerBase:
        """The tokenizer, with the chat template of the settings."""
        return self.sets.tokenizer

    def _tokeniser(self, kind: DataKind) -> Tokeniser:
        made_of = DataKind.PAIRS if kind is DataKind.COMPARISONS else kind
        fmt = Format("what is to be judged", made_of, conversational=False)
        return self.sets.pipeline(kind).tokeniser(fmt, DataReport(fmt.name))

    def read(self, prompts: Sequence[Prompt], completions: Sequence[str]) -> list[Example | Dropped]:
        """Make tokens of responses; what cannot be read comes back with the reason.

        Raises:
            DataError: a prompt is given as tokens.
        """
        rows = [_row(number, *parts) for number, parts in enumerate(zip(prompts, completions, strict=True), start=1)]
        return self._examples(self._tokeniser(DataKind.RESPONSES), rows)

    def read_pairs(
        self, prompts: Sequence[Prompt], firsts: Sequence[str], seconds: Sequence[str]
    ) -> list[Example | Dropped]:
        """Make tokens of pairs, both responses in one text: each as two texts, with either response first.

        Raises:
            DataError: a prompt is given as tokens.
        """
        rows = [_row(number, *parts) for number, parts in enumerate(zip(prompts, firsts, seconds, strict=True), 1)]
        return self._examples(self._tokeniser(DataKind.COMPARISONS), rows)

    @staticmethod
    def _examples(tokeniser: Tokeniser, rows: list[CanonicalRow]) -> list[Example | Dropped]:
        try:
            return [example for _, example in tokeniser.many(rows)]
        except DataError:
            # One row by one, to tell which it is.
            return [_alone(tokeniser, row) for row in rows]

    def values(self, examples: Sequence[Example], call: Callable[[Any, Rows], Tensor]) -> list[list[Any]]:
        """Run the model over examples, in batches of like lengths, without gradient.

        Args:
            examples: what to read.
            call: makes of the scorer and rows of M texts a tensor [M] or [M, K].

        Returns:
            For each example and each of its texts a number, or K numbers.
        """
        scorer = self.scorer
        order = sorted(range(len(examples)), key=lambda index: -max(map(len, examples[index].ids)))
        found: dict[int, list[Any]] = {}
        device, padding = next(scorer.parameters()).device, pad_id(self.tokenizer)
        with torch.no_grad(), gathered(scorer), evaluating(scorer):
            for start in range(0, len(order), self.batch_size):
                chosen = order[start : start + self.batch_size]
                batch = [examples[index] for index in chosen]
                rows = move_data_to_device(build_rows(batch, Layout.PADDED, pad_id=padding), device)
                values = call(scorer, rows).double().split([len(example.ids) for example in batch])
                found.update((index, part.tolist()) for index, part in zip(chosen, values, strict=True))
        return [found[index] for index in range(len(examples))]


def count_cut(examples: Sequence[Example]) -> int:
    """How many examples have a text that was cut."""
    return sum(any(example.truncated or []) for example in examples)


def _alone(tokeniser: Tokeniser, row: CanonicalRow) -> Example | Dropped:
    try:
        return tokeniser(row)
    except DataError as error:
        return Dropped(row.row, error.what)


def check_head(model: TextModel, allow_new_head: bool) -> None:
    """Refuse a head of random numbers.

    Raises:
        ConfigError: the model has one.
    """
    if getattr(model.scorer.model, "has_new_head", False) and not allow_new_head:
        model.release()
        raise ConfigError(
            "the model has no head that scores, so its scores would be random",
            got=model.name,
            fix="give a trained reward model: a folder that `lit-align export` wrote of one, or one from the hub",
        )


def _row(number: int, prompt: Prompt, *completions: str) -> CanonicalRow:
    pairs = [(0, 1)] if len(completions) == 2 else []
    if isinstance(prompt, str):
        return CanonicalRow(number, prompt, [*completions], pairs=pairs)
    if prompt and isinstance(prompt[0], dict):
        answers: list[Completion] = [[{"role": "assistant", "content": completion}] for completion in completions]
        return CanonicalRow(number, prompt, answers, pairs=pairs)
    raise DataError(
        "a judge reads texts or conversations",
        row=number,
        field="prompts",
        value=prompt,
        fix="give the prompt's text: another model may have other tokens",
    )
