"""The data module in a trainer: splits, conversions, reports, the order of batches, and resuming."""

from __future__ import annotations

import json
import warnings

import lightning as L
import pytest
import torch
from lightning.pytorch.callbacks import ModelCheckpoint

from lit_align.core.batch import DataKind, LabelBatch, Layout, PairBatch, PromptBatch
from lit_align.core.errors import ConfigError, DataError
from lit_align.data.module import PreferenceDataModule
from lit_align.data.templates import BUILT_IN
from tests.data import tokenizers as tk
from tests.launch import launch


def write(path, rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


def pair_rows(count, prompts=None):
    return [
        {"prompt": f"Q{n % (prompts or count)}?", "chosen": f" yes {n}" + "!" * (n % 5), "rejected": f" no {n}"}
        for n in range(count)
    ]


@pytest.fixture
def pairs(tmp_path):
    return write(tmp_path / "pairs.jsonl", pair_rows(26))


@pytest.fixture
def make(tmp_path):
    def module(train=None, **settings):
        own = PreferenceDataModule(train, **{"cache_dir": str(tmp_path / "cache"), "batch_size": 4, **settings})
        own.sets.tokenizer = tk.byte_tokenizer(tk.WITH_BOS)
        return own

    return module


class Method(L.LightningModule):
    """Notes the rows of each batch, and trains one number."""

    data_kind = DataKind.PAIRS
    resolved_layout = Layout.SHARED
    score_prompts = False
    needs_kl = False

    def __init__(self, kind=DataKind.PAIRS, ask_length=False):
        super().__init__()
        self.data_kind = kind
        self.ask_length = ask_length
        self.weight = torch.nn.Parameter(torch.zeros(()))
        self.seen, self.validated, self.tested, self.predicted = [], [], [], []

    def training_step(self, batch, batch_idx):
        rows = batch.source_rows.tolist()
        self.seen.append((self.current_epoch, batch_idx, rows, batch.window, self.global_step))
        return (self.weight - 1) ** 2

    def validation_step(self, batch, batch_idx):
        self.validated.append(batch)

    def test_step(self, batch, batch_idx):
        self.tested.append(batch)

    def predict_step(self, batch, batch_idx):
        self.predicted.append(batch)

    def configure_optimizers(self):
        if self.ask_length:
            assert self.trainer.estimated_stepping_batches > 0
        return torch.optim.SGD(self.parameters(), lr=0.1)


class KTO(Method):
    pass


pytestmark = [
    pytest.mark.filterwarnings("ignore:.*callbacks used to create the checkpoint.*"),
    pytest.mark.filterwarnings("ignore:.*predict returned None.*"),
]


def trainer(tmp_path, **settings):
    defaults = {"max_epochs": 1, "accelerator": "cpu", "logger": False, "enable_progress_bar": False}
    defaults |= {"enable_model_summary": False, "enable_checkpointing": "callbacks" in settings}
    return L.Trainer(default_root_dir=str(tmp_path / "run"), num_sanity_val_steps=0, **{**defaults, **settings})


def fit(tmp_path, data, method=None, ckpt_path=None, **settings):
    method = method or Method()
    trainer(tmp_path, **settings).fit(method, data, ckpt_path=ckpt_path)
    return method


def rows_of(batches):
    return sorted(row for batch in batches for row in batch.source_rows.tolist())


# ---------------------------------------------------------------- stages


def test_fit_sees_every_row_once_per_epoch_in_another_order(tmp_path, make, pairs):
    method = fit(tmp_path, make(pairs), max_epochs=2, accumulate_grad_batches=3)
    epochs = [[seen for seen in method.seen if seen[0] == epoch] for epoch in range(2)]
    for epoch in epochs:
        assert sorted(row for seen in epoch for row in seen[2]) == list(range(1, 27))
        assert [seen[3].examples for seen in epoch[:3]] == [sum(len(seen[2]) for seen in epoch[:3])] * 3
        assert epoch[-1][3].examples == len(epoch[-1][2])
    assert [seen[2] for seen in epochs[0]] != [seen[2] for seen in epochs[1]]


def test_the_report_is_printed_and_saved(tmp_path, make, pairs, capsys):
    fit(tmp_path, make(pairs, val_split=0.25))
    printed = capsys.readouterr().out
    assert "train and validation: " in printed
    assert "26 read, 26 kept" in printed
    assert "split by prompt: 20 examples to learn from, 6 held out" in printed
    saved = json.loads((tmp_path / "run" / "data_report.json").read_text())
    assert set(saved) == {"train", "validation"}
    assert saved["train"]["kept"] == 26


def test_what_an_epoch_leaves_out_is_reported(tmp_path, make, pairs, capsys):
    fit(tmp_path, make(pairs, drop_last=True))
    assert "2 examples per epoch are left out" in capsys.readouterr().out
    assert "2 examples" in json.loads((tmp_path / "run" / "data_report.json").read_text())["train"]["notes"][0]


def test_validation_test_and_prediction(tmp_path, make, pairs):
    data = make(pairs, validation=pairs, test=pairs, predict=pairs, max_tokens_per_batch=300)
    method = Method()
    own = trainer(tmp_path)
    own.fit(method, data)
    own.validate(method, data, verbose=False)
    own.test(method, data, verbose=False)
    own.predict(method, data)
    assert rows_of(method.validated) == sorted([*range(1, 27), *range(1, 27)])
    assert rows_of(method.tested) == list(range(1, 27))
    assert all(isinstance(batch, PairBatch) and batch.window is None for batch in method.tested)
    assert all(isinstance(batch, PromptBatch) for batch in method.predicted)
    assert rows_of(method.predicted) == list(range(1, 27))


def test_prediction_of_one_kind_after_another(tmp_path, make, pairs):
    data, method = make(predict=pairs), Method()
    trainer(tmp_path).predict(method, data)
    data.predict_kind = DataKind.PAIRS
    trainer(tmp_path).predict(method, data)
    kinds = [type(batch) for batch in method.predicted]
    assert kinds == [PromptBatch] * 7 + [PairBatch] * 7


@pytest.mark.parametrize("stage", ["fit", "validate", "test", "predict"])
def test_a_stage_without_data(tmp_path, make, stage):
    split = {"fit": "train", "validate": "validation"}.get(stage, stage)
    with pytest.raises(ConfigError, match=f"data.{split} is not set"):
        getattr(trainer(tmp_path), stage)(Method(), make())


def test_a_set_without_usable_rows(tmp_path, make):
    path = write(tmp_path / "same.jsonl", [{"prompt": "a", "chosen": "b", "rejected": "b"}] * 3)
    with pytest.raises(DataError, match="all 3 were dropped"):
        fit(tmp_path, make(path))


def test_too_few_rows_for_one_batch(tmp_path, make):
    path = write(tmp_path / "rows.jsonl", pair_rows(3))
    with pytest.raises(DataError, match=r"not one training batch[\s\S]*drop_last: false"):
        fit(tmp_path, make(path, drop_last=True))


# ---------------------------------------------------------------- splits


@pytest.mark.parametrize("amount", [0.3, 7])
def test_no_prompt_on_both_sides(tmp_path, make, amount):
    path = write(tmp_path / "rows.jsonl", pair_rows(60, prompts=13))
    data = make(path, val_split=amount)
    texts = {}
    for split in ("train", "validation"):
        store = data.examples(split, DataKind.PAIRS)
        texts[split] = {tuple(example.ids[0][: example.prompt_lengths[0]]) for example in store}
        texts[split + " rows"] = {example.row for example in store}
    assert not texts["train"] & texts["validation"]
    assert texts["train rows"] | texts["validation rows"] == set(range(1, 61))
    wanted = 18 if amount < 1 else 7
    assert wanted <= len(texts["validation rows"]) < wanted + 5


def test_the_split_follows_from_its_seed(make, pairs):
    def held_out(seed):
        return [example.row for example in make(pairs, val_split=5, split_seed=seed).examples("validation")]

    assert held_out(1) == held_out(1) != held_out(2)


def test_a_converted_pair_stays_on_one_side(make, pairs):
    data = make(pairs, val_split=0.4, convert="pairs_to_unpaired")
    rows = {split: {e.row for e in data.examples(split, DataKind.UNPAIRED)} for split in ("train", "validation")}
    assert not rows["train"] & rows["validation"]
    assert rows["train"] | rows["validation"] == set(range(1, 27))


@pytest.mark.parametrize(("amount", "error"), [(1.5, ConfigError), (-1, ConfigError), (26, DataError), (99, DataError)])
def test_impossible_splits(make, pairs, amount, error):
    with pytest.raises(error, match="val_split"):
        make(pairs, val_split=amount).examples("train")


# ---------------------------------------------------------------- kinds and conversions


def test_a_wrong_kind_names_the_setting_to_add(tmp_path, make, pairs):
    with pytest.raises(ConfigError) as caught:
        fit(tmp_path, make(pairs), KTO(DataKind.UNPAIRED))
    assert str(caught.value).startswith("KTO learns from unpaired data, and this file holds pairs.")
    assert "Add convert: pairs_to_unpaired under data." in str(caught.value)


def test_a_kind_that_nothing_makes(tmp_path, make):
    path = write(tmp_path / "rows.jsonl", [{"prompt": "a", "completion": "b"}])
    with pytest.raises(ConfigError, match=r"demonstrations[\s\S]*no conversion between these"):
        make(path).examples("train", DataKind.PAIRS)


def test_ranked_data_offer_three_ways(tmp_path, make):
    path = write(tmp_path / "rows.jsonl", [{"prompt": "a", "responses": ["b", "c", "d"], "scores": [1, 2, 3]}])
    with pytest.raises(ConfigError, match="best_worst or all_pairs or adjacent_pairs"):
        make(path).examples("train", DataKind.PAIRS)
    example = make(path, convert="all_pairs").examples("train", DataKind.PAIRS)[0]
    assert len(example.ids) == 3
    assert len(example.pairs) == 3
    assert example.margins == [1.0, 2.0, 1.0] or sorted(example.margins) == [1.0, 1.0, 2.0]


def test_unpaired_batches_from_pairs(tmp_path, make, pairs):
    method = KTO(DataKind.UNPAIRED)
    method.needs_kl = True
    data = make(pairs, validation=pairs, convert="pairs_to_unpaired")
    trainer(tmp_path).validate(method, data, verbose=False)
    assert all(isinstance(batch, LabelBatch) and batch.kl_rows is not None for batch in method.validated)
    assert sum(int(batch.label.sum()) for batch in method.validated) == 26


def test_a_conversion_with_nothing_to_do_is_noted(make, pairs):
    data = make(pairs, convert="best_worst")
    assert len(data.examples("train", DataKind.PAIRS)) == 26
    assert data.reports["train"].notes == ["convert: best_worst has nothing to do, the rows are pairs"]


def test_an_unknown_conversion(make, pairs):
    with pytest.raises(ConfigError, match="did you mean 'pairs_to_chosen'"):
        make(pairs, convert="pair_to_chosen").examples("train", DataKind.DEMONSTRATIONS)


def test_one_label_can_be_measured_but_not_learnt(tmp_path, make):
    path = write(tmp_path / "kto.jsonl", [{"prompt": f"{n}", "completion": "x", "label": True} for n in range(4)])
    with pytest.raises(DataError, match="all 4 labels are the same"):
        make(path).examples("train", DataKind.UNPAIRED)
    assert len(make(validation=path).examples("validation", DataKind.UNPAIRED)) == 4


# ---------------------------------------------------------------- settings of the tokenizer


def test_the_tokenizer_is_the_policys(tmp_path, pairs, tiny_model_dir):
    method = Method()
    method.policy_name = tiny_model_dir
    data = PreferenceDataModule(pairs, cache_dir=str(tmp_path / "cache"), batch_size=4, chat_template="chatml")
    fit(tmp_path, data, method)
    assert data.tokenizer.chat_template == BUILT_IN["chatml"]
    assert len(method.seen) == 7


def test_without_tokenizer(make, pairs):
    data = make(pairs)
    data.sets._tokenizer = None
    with pytest.raises(ConfigError, match=r"data\.tokenizer"):
        data.examples("train")


def test_settings_do_not_change_a_tokenizer_that_was_passed(make, pairs):
    tokenizer = tk.byte_tokenizer()
    data = make(pairs, chat_template="transcript", eos_token="<|im_end|>")
    example = data.examples("train", tokenizer=tokenizer)[0]
    assert example.ids[0][-1] == tokenizer.convert_tokens_to_ids("<|im_end|>")
    assert data.tokenizer.chat_template == BUILT_IN["transcript"]
    assert tokenizer.chat_template is None
    assert tokenizer.eos_token == "</s>"
    with pytest.raises(ConfigError, match="not one of the tokenizer's tokens"):
        make(pairs, eos_token="<nope>").examples("train", tokenizer=tokenizer)


def test_the_tokenizer_limits_the_length(make, pairs):
    tokenizer = tk.byte_tokenizer()
    tokenizer.model_max_length = 8
    data = make(pairs, max_prompt_length=512)
    assert max(len(ids) for example in data.examples("train", tokenizer=tokenizer) for ids in example.ids) == 8
    assert data.reports["train"].notes == ["max_length 8: model and tokenizer allow no more"]


def test_the_model_limits_the_length(tmp_path, make, tiny_model_dir):
    path = write(tmp_path / "rows.jsonl", [{"prompt": "a", "chosen": "b" * 999, "rejected": "c"}])
    data = make(path, tokenizer=tiny_model_dir)
    assert max(len(ids) for ids in data.examples("train")[0].ids) == 512
    assert data.reports["train"].notes == ["max_length 512: model and tokenizer allow no more"]


@pytest.mark.parametrize("name", sorted(BUILT_IN))
def test_built_in_templates_let_the_completion_end(make, tmp_path, name):
    row = {"messages": [{"role": role, "content": text} for role, text in (
        ("system", "Be kind."), ("user", "a"), ("assistant", "b"), ("user", "c"), ("assistant", "d"))]}  # fmt: skip
    data = make(write(tmp_path / "m.jsonl", [row]), chat_template=name)
    example = data.examples("train", DataKind.DEMONSTRATIONS, tk.byte_tokenizer())[0]
    tokenizer = data.tokenizer
    scored = [i for i, on in zip(example.ids[0][example.prompt_lengths[0] :], example.masks[0], strict=True) if on]
    assert tokenizer.decode(scored).replace(" ", "") == "b</s>d</s>"
    assert data.reports["train"].events["boundary_mismatches"].total == 0


def test_tokens_at_which_the_model_stops(tmp_path, make, tiny_model_dir):
    import shutil

    folder = tmp_path / "model"
    shutil.copytree(tiny_model_dir, folder)
    (folder / "generation_config.json").write_text(json.dumps({"eos_token_id": [2, 6, 99_999]}))
    path = write(tmp_path / "m.jsonl", [{"prompt": [{"role": "user", "content": "a"}],
                                         "completion": [{"role": "assistant", "content": "b"}]}])  # fmt: skip
    data = make(path, tokenizer=str(folder))
    example = data.examples("train", DataKind.DEMONSTRATIONS, tk.byte_tokenizer(tk.GEMMA))[0]
    assert data.tokenizer.decode(example.ids[0]).endswith("b<end_of_turn>")


# ---------------------------------------------------------------- cached reference values


def test_reference_values_reach_the_batches(tmp_path, make, pairs):
    data = make(pairs, val_split=6)

    class Filling(Method):
        def on_fit_start(self):
            for split in data.reference_splits():
                store = data.examples(split)
                data.set_reference_logps(split, [[float(example.row), 0.0] for example in store])

        def training_step(self, batch, batch_idx):
            assert batch.reference_logps[batch.chosen].tolist() == batch.source_rows.tolist()
            return super().training_step(batch, batch_idx)

    # The loader exists before the values do.
    method = fit(tmp_path, data, Filling(ask_length=True))
    assert len(method.seen) == 5
    assert data.reference_splits() == ["train", "validation"]
    assert data.fingerprint("train") != data.fingerprint("validation")
    assert data.fingerprint("train") != make(pairs, val_split=6, max_length=99).fingerprint("train")


# ---------------------------------------------------------------- resuming


def resumed_equals_whole(tmp_path, data, whole_settings, method=Method, **more):
    """Kills nothing, but starts from every checkpoint of a run, and compares what is seen from there on."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        keep = ModelCheckpoint(tmp_path / "ckpt", "{step}", save_top_k=-1, every_n_train_steps=1)
        whole = fit(tmp_path, data(), method(**more), callbacks=[keep], **whole_settings)
        paths = sorted((tmp_path / "ckpt").iterdir(), key=lambda path: int(path.stem.split("=")[1]))
        assert len(paths) >= 3
        for path in paths[:-1]:
            resumed = fit(tmp_path, data(), method(**more), ckpt_path=str(path), **whole_settings)
            step = int(path.stem.split("=")[1])
            expected = [seen for seen in whole.seen if seen[4] >= step]
            assert [seen[2:] for seen in resumed.seen] == [seen[2:] for seen in expected], path.name
    return whole


@pytest.mark.parametrize("ask_length", [False, True])
@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"accumulate_grad_batches": 3},
        {"reload_dataloaders_every_n_epochs": 1},
        {"max_epochs": -1, "max_steps": 11},
        {"limit_train_batches": 3, "accumulate_grad_batches": 2},
    ],
)
def test_resumes_after_any_step(tmp_path, make, settings, ask_length):
    path = write(tmp_path / "rows.jsonl", pair_rows(14))
    settings = {"max_epochs": 3, **settings}
    resumed_equals_whole(tmp_path, lambda: make(path), settings, ask_length=ask_length)


def test_a_checkpoint_inside_an_accumulation_window(tmp_path, make, pairs):
    class SaveInside(L.Callback):
        def on_train_batch_end(self, trainer, module, outputs, batch, batch_idx):
            if batch_idx == 3:
                trainer.save_checkpoint(tmp_path / "inside.ckpt")

    settings = {"accumulate_grad_batches": 3}
    whole = fit(tmp_path, make(pairs), callbacks=[SaveInside()], **settings)
    resumed = fit(tmp_path, make(pairs), ckpt_path=str(tmp_path / "inside.ckpt"), **settings)
    assert [seen[1:] for seen in resumed.seen] == [seen[1:] for seen in whole.seen[4:]]


def test_other_batches_are_refused_inside_an_epoch_only(tmp_path, make, pairs):
    keep = ModelCheckpoint(tmp_path / "ckpt", "{step}", save_top_k=-1, every_n_train_steps=1)
    end = ModelCheckpoint(tmp_path / "ckpt", "end", every_n_epochs=1)
    fit(tmp_path, make(pairs), callbacks=[keep, end])
    with pytest.raises(ConfigError, match="inside an epoch"):
        fit(tmp_path, make(pairs, batch_size=3), ckpt_path=str(tmp_path / "ckpt" / "step=2.ckpt"))
    at_end = str(tmp_path / "ckpt" / "end.ckpt")
    method = fit(tmp_path, make(pairs, batch_size=3), max_epochs=2, ckpt_path=at_end)
    assert {seen[0] for seen in method.seen} == {1}
    assert sorted(row for seen in method.seen for row in seen[2]) == list(range(1, 27))


# ---------------------------------------------------------------- streams


def test_a_stream_trains_and_reports_at_its_end(tmp_path, make, pairs, capsys):
    data = make(pairs, streaming=True, stream_buffer=10)
    method = fit(tmp_path, data, max_epochs=2, accumulate_grad_batches=2)
    orders = []
    for epoch in range(2):
        rows = [row for seen in method.seen if seen[0] == epoch for row in seen[2]]
        assert sorted(rows) == list(range(1, 27))
        orders.append(rows)
    assert orders[0] != orders[1]
    printed = capsys.readouterr().out
    assert "streamed" in printed
    assert printed.count("26 read, 26 kept") == 2
    assert json.loads((tmp_path / "run" / "data_report.json").read_text())["train"]["kept"] == 26


@pytest.mark.parametrize(
    "settings",
    [
        {"max_epochs": 3},
        {"max_epochs": 3, "accumulate_grad_batches": 2},
        {"max_epochs": -1, "max_steps": 11},
        {"max_epochs": 3, "limit_train_batches": 3, "accumulate_grad_batches": 2},
    ],
)
def test_a_stream_resumes_after_any_step(tmp_path, make, settings):
    path = write(tmp_path / "rows.jsonl", pair_rows(18))
    resumed_equals_whole(tmp_path, lambda: make(path, streaming=True, stream_buffer=7), settings)


def test_a_stream_of_nothing_to_learn(tmp_path, make):
    path = write(tmp_path / "same.jsonl", [{"prompt": "a", "chosen": "b", "rejected": "b"}] * 3)
    with pytest.raises(DataError, match="all 3 were dropped"):
        fit(tmp_path, make(path, streaming=True))


def test_a_stream_cannot_be_split(tmp_path, make, pairs):
    with pytest.raises(ConfigError, match=r"data\.validation"):
        fit(tmp_path, make(pairs, streaming=True, val_split=0.1))


# ---------------------------------------------------------------- processes


def _fit_on_ranks(folder, path, streaming):
    own = PreferenceDataModule(
        path, validation=path, cache_dir=str(folder / "cache"), batch_size=4, streaming=streaming, stream_buffer=12
    )
    own.sets.tokenizer = tk.byte_tokenizer(tk.WITH_BOS)
    method = fit(folder, own, strategy="ddp", devices=2, max_epochs=2, accumulate_grad_batches=2)
    return method.seen, [batch.source_rows.tolist() for batch in method.validated]


@pytest.mark.parametrize("streaming", [False, True])
def test_two_processes_share_the_rows_and_agree_on_counts(tmp_path, streaming):
    path = write(tmp_path / "rows.jsonl", pair_rows(27))
    (seen, validated), (seen_1, validated_1) = launch(_fit_on_ranks, tmp_path, path, streaming, world=2)
    assert len(seen) == len(seen_1)
    assert [item[3] for item in seen] == [item[3] for item in seen_1]
    for epoch in range(2):
        rows = [row for item in seen + seen_1 if item[0] == epoch for row in item[2]]
        assert sorted(rows) == list(range(1, 28))
    windows = {id(item[3]): item[3].examples for item in seen if item[0] == 0}
    assert sum(set(windows.values())) <= 27
    both = [row for batch in validated + validated_1 for row in batch]
    assert sorted(both) == sorted([*range(1, 28), *range(1, 28)])
    assert len(validated) == len(validated_1)


@pytest.mark.parametrize(
    ("setting", "value", "wanted"),
    [
        ("batch_size", 0, "above 0"),
        ("batch_size", -3, "above 0"),
        ("max_tokens_per_batch", 0, "above 0"),
        ("num_workers", -1, "0 or more"),
        ("stream_buffer", 0, "above 0"),
        ("max_length", 0, "above 0"),
        ("val_split", 1.0, "below 1"),
        ("val_split", -1, "below 1"),
    ],
)
def test_numbers_out_of_range_are_refused_before_anything_is_read(setting, value, wanted):
    with pytest.raises(ConfigError, match=wanted) as caught:
        PreferenceDataModule("no such file.jsonl", **{setting: value})
    assert caught.value.got == f"data.{setting}: {value}"


def test_one_row_can_be_held_out():
    assert PreferenceDataModule("pairs.jsonl", val_split=1).val_split == 1
