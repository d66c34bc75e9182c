"""Samples during training: what is written where, and that training does not notice."""

from __future__ import annotations

import json
from typing import Any

import pytest
from lightning.pytorch.loggers import TensorBoardLogger
from lightning.pytorch.strategies import ModelParallelStrategy
from torch import Tensor
from torch.utils.data import DataLoader

from lit_align.callbacks import CompletionsTable
from lit_align.core.batch import Example, Layout
from lit_align.core.errors import ConfigError
from lit_align.core.forward import Scorer
from lit_align.core.layout import build_rows
from lit_align.core.module import StepRecord
from lit_align.core.sharding import shard
from tests.callbacks.toy import Kill, ToyData, ToyLoader, ToyModule, assert_same_run, train
from tests.helpers import build_tiny_tokenizer, tiny_model
from tests.launch import RankError, launch

QUESTIONS = ["Why?", "Why?", "What is it?", "How far is the sea", "Who"]


def example(row: int, prompt: str) -> Example:
    tokenizer = build_tiny_tokenizer()
    ids = [1, *tokenizer(prompt)["input_ids"]]
    return Example(row, [[*ids, 40 + row, 50, 2]], [len(ids)])


class WriterModule(ToyModule):
    """A tiny language model with dropout that learns its completions by heart."""

    def configure_model(self) -> None:
        if not hasattr(self, "policy"):
            self.policy = Scorer(tiny_model(attention_dropout=0.2)).train()
            if self._device_mesh is not None:
                shard(self.policy, self._device_mesh["data_parallel"])

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        examples = [example(int(row), QUESTIONS[int(row) % 5]) for row in batch["row"]]
        values = -self.policy.sequence_logps(build_rows(examples, Layout.PADDED)).sums
        self.losses.append(values.mean().item())
        self.last_step = StepRecord(values.mean().detach(), values.detach(), batch["row"], {})
        self.log("loss", values.mean())
        return values.mean()


class WriterData(ToyData):
    """Loaders with `examples`, as those of PreferenceDataModule."""

    def __init__(self) -> None:
        super().__init__()
        self.tokenizer = build_tiny_tokenizer()

    def train_dataloader(self) -> ToyLoader:
        loader = super().train_dataloader()
        loader.examples = [example(row, question) for row, question in enumerate(QUESTIONS)]
        return loader

    def val_dataloader(self) -> DataLoader:
        loader = super().val_dataloader()
        loader.examples = [example(row, question.upper()) for row, question in enumerate(QUESTIONS)]
        return loader


class WriterModuleWithValidation(WriterModule):
    def validation_step(self, batch, batch_idx): ...


QUIET = {"max_epochs": 1, "limit_val_batches": 0}


def write(folder, table: CompletionsTable | None, *extra: Any, **settings: Any) -> WriterModule:
    callbacks = [*extra] if table is None else [table, *extra]
    return train(folder, *callbacks, module=WriterModule(), data=WriterData(), **(QUIET | settings))


def table(**settings: Any) -> CompletionsTable:
    return CompletionsTable(**({"every_n_steps": 5, "num_prompts": 3, "max_new_tokens": 6} | settings))


def read(folder) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "completions.jsonl").read_text().splitlines()]


def test_completions_before_during_and_after(tmp_path):
    write(tmp_path, table())
    records = read(tmp_path)
    assert [record["step"] for record in records] == [0] * 3 + [5] * 3 + [10] * 3 + [13] * 3
    assert [record["prompt"] for record in records[:3]] == ["Why?", "What is it?", "How far is the sea"]
    assert set(records[0]) == {"step", "prompt", "completion", "tokens", "finished"}
    assert all(1 <= record["tokens"] <= 6 for record in records)
    assert records[0]["completion"] != records[-1]["completion"], "the model has learnt"


def test_no_second_round_at_the_last_step(tmp_path):
    write(tmp_path, table(every_n_steps=13))
    assert [record["step"] for record in read(tmp_path)] == [0] * 3 + [13] * 3


def test_steps_are_those_of_the_optimiser(tmp_path):
    write(tmp_path, table(every_n_steps=2, num_prompts=1), accumulate_grad_batches=4)
    assert [record["step"] for record in read(tmp_path)] == [0, 2, 4]


@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_training_does_not_notice(tmp_path, temperature):
    plain = write(tmp_path / "plain", None)
    watched = write(tmp_path / "watched", table(every_n_steps=2, temperature=temperature))
    assert watched.losses == plain.losses
    assert_same_run(plain, watched, tmp_path / "plain", tmp_path / "watched")
    assert all(part.training for part in watched.policy.modules())


@pytest.mark.parametrize(
    ("hook", "count"), [("on_train_batch_end", 3), ("on_train_batch_end", 11), ("on_train_end", 1)]
)
def test_a_killed_run_has_the_same_completions(tmp_path, hook, count):
    sampling = {"every_n_steps": 3, "temperature": 1.0}
    write(tmp_path / "whole", table(**sampling))
    with pytest.raises(RankError, match="died"):
        launch(write, tmp_path / "killed", table(**sampling), Kill(hook, count), world=1)
    write(tmp_path / "killed", table(**sampling), ckpt_path="last")
    expected = (tmp_path / "whole" / "completions.jsonl").read_bytes()
    assert (tmp_path / "killed" / "completions.jsonl").read_bytes() == expected


def test_held_out_prompts_come_first(tmp_path):
    module = WriterModuleWithValidation()
    train(tmp_path, table(), module=module, data=WriterData(), max_steps=1)
    assert [record["prompt"] for record in read(tmp_path)][:3] == ["WHY?", "WHAT IS IT?", "HOW FAR IS THE SEA"]


@pytest.mark.parametrize(
    ("rows", "expected"),
    [
        ([{"prompt": "Tell me"}, {"prompt": "Sing"}], ["Tell me", "Sing"]),
        ([{"prompt": "Tell me", "chosen": " a", "rejected": " b"}], ["Tell me"]),
        ([{"prompt": [{"role": "user", "content": "hi"}]}], ["<|user|>\nhi<|assistant|>\n"]),
    ],
)
def test_prompts_from_a_file(tmp_path, monkeypatch, rows, expected):
    monkeypatch.setenv("HF_DATASETS_CACHE", str(tmp_path / "cache"))
    path = tmp_path / "prompts.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    write(tmp_path, table(prompts=str(path)), max_steps=1)
    assert [record["prompt"] for record in read(tmp_path)] == 2 * expected


def test_loggers_get_text(tmp_path):
    logger = TensorBoardLogger(tmp_path, name="", version="tensorboard")
    write(tmp_path, table(every_n_steps=13, num_prompts=2), logger=logger)
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(tmp_path / "tensorboard"))
    events.Reload()
    assert {f"completions/{n}/text_summary" for n in (0, 1)} <= set(events.Tags()["tensors"])


class Tables:
    """Takes tables, as the logger of Weights & Biases does."""

    def __init__(self) -> None:
        self.tables: list[Any] = []

    def log_table(self, key, columns=None, data=None, dataframe=None, step=None):
        self.tables.append((key, columns, data, step))


def test_loggers_get_tables():
    from lit_align.callbacks import completions_table

    logger = Tables()
    completions_table._log(logger, [[5, "a", "b"]], 5)
    assert logger.tables == [("completions", ["step", "prompt", "completion"], [[5, "a", "b"]], 5)]


def rank_run(folder, sharded, generates):
    strategy = ModelParallelStrategy(data_parallel_size=2, tensor_parallel_size=1) if sharded else "ddp"
    module = write(folder, table(every_n_steps=2) if generates else None, devices=2, strategy=strategy)
    return module.losses


@pytest.mark.parametrize("sharded", [False, True])
def test_two_ranks(tmp_path, sharded):
    quiet = launch(rank_run, tmp_path / "quiet", sharded, False)
    assert launch(rank_run, tmp_path / "run", sharded, True) == quiet
    assert [record["step"] for record in read(tmp_path / "run")] == [0] * 3 + [2] * 3 + [4] * 3 + [6] * 3


def test_what_is_missing_is_named(tmp_path):
    with pytest.raises(ConfigError, match="needs a tokenizer"):
        train(tmp_path, CompletionsTable())
    data = ToyData()
    data.tokenizer = build_tiny_tokenizer()
    with pytest.raises(ConfigError, match="has no prompts"):
        train(tmp_path, CompletionsTable(), data=data)


@pytest.mark.parametrize("setting", [{"every_n_steps": 0}, {"num_prompts": 0}])
def test_bad_settings_are_refused(setting):
    with pytest.raises(ConfigError, match=f"{next(iter(setting))}: 0"):
        CompletionsTable(**setting)
