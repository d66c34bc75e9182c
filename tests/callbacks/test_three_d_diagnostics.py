"""The three Ds: what is measured, that training does not notice, and that a resumed run measures the same."""

from __future__ import annotations

import copy
import itertools
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import Callback, Trainer, seed_everything
from transformers import AutoModelForCausalLM, AutoTokenizer

import lit_align
from lit_align import PreferenceDataModule
from lit_align.callbacks import ExactResume, ReferenceSync, RunCheckpoint, ThreeDDiagnostics
from lit_align.callbacks.three_d_diagnostics import first_pair, slopes
from lit_align.core.batch import Example
from lit_align.core.errors import ConfigError
from lit_align.core.fsdp2 import FSDP2Strategy
from lit_align.evaluation.jsonl_logger import JsonlLogger
from lit_align.rollouts.hf import generate
from tests.launch import launch

NAMES = {
    "dlogp_chosen", "dlogp_rejected", "drop_ratio", "log_grad_ratio", "loss_weight", "frac_chosen_below_ref",
    "coef_chosen", "coef_rejected", "peak_chosen", "chosen_minus_peak", "entropy", "logp_unseen", "self_sample_ref_nll",
}  # fmt: skip
SLOPES = {"slope_chosen", "slope_rejected"}


@pytest.fixture
def pairs(tmp_path) -> str:
    path = tmp_path / "pairs.jsonl"
    rows = [{"prompt": f"{n}?", "chosen": " yes" * (n % 3 + 1), "rejected": " no" * (n % 2 + 1)} for n in range(12)]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


def fit(model: str, pairs: str, folder: Path, *callbacks: Callback, method: str = "DPO", **kwargs: Any) -> Any:
    """Two epochs of six micro-batches; the module."""
    seed_everything(0, verbose=False)
    settings = {"max_epochs": 2, "devices": 1, "ckpt_path": None} | kwargs
    ckpt_path, data = settings.pop("ckpt_path"), settings.pop("data", {})
    module = getattr(lit_align, method)(
        policy=model, learning_rate=1e-3, warmup_ratio=0.0, schedule="constant", dropout=True
    )
    trainer = Trainer(
        accelerator="cpu", default_root_dir=str(folder), callbacks=[ExactResume(), *callbacks], log_every_n_steps=1,
        logger=JsonlLogger(str(folder)), enable_progress_bar=False, enable_model_summary=False,
        use_distributed_sampler=False, **settings,
    )  # fmt: skip
    trainer.fit(
        module, PreferenceDataModule(pairs, batch_size=2, cache_dir=str(folder / "cache"), **data), ckpt_path=ckpt_path
    )
    return module


def diagnostics(**kwargs: Any) -> ThreeDDiagnostics:
    return ThreeDDiagnostics(**({"every_n_steps": 3, "num_pairs": 5, "max_new_tokens": 6} | kwargs))


def logged(folder: Path) -> list[dict[str, float]]:
    """The metrics of the optimiser steps."""
    records = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return [record for record in records if "3d/entropy" in record]


def test_what_is_logged(tiny_model_dir, pairs, tmp_path):
    fit(tiny_model_dir, pairs, tmp_path, diagnostics())
    records = logged(tmp_path)
    assert len(records) == 12
    assert all({f"3d/{name}" for name in NAMES} <= record.keys() for record in records)
    first, last = records[0], records[-1]
    # Before the third step the measurement of the initial policy stands there, which is its own reference.
    assert first["3d/dlogp_chosen"] == first["3d/dlogp_rejected"] == first["3d/logp_unseen"] == 0
    assert (first["3d/loss_weight"], first["3d/chosen_minus_peak"]) == (0.5, 0)
    assert records[2] != records[1]
    assert records[3] | {"step": 2} | {k: v for k, v in records[2].items() if not k.startswith("3d/")} == records[2]
    assert last["3d/dlogp_chosen"] > 0 > last["3d/dlogp_rejected"]
    assert last["3d/loss_weight"] < 0.5
    assert last["3d/logp_unseen"] != 0
    # What the initial policy writes, and then what another one writes.
    assert last["3d/self_sample_ref_nll"] != first["3d/self_sample_ref_nll"] > 0
    assert [f"3d/{name}" in record for name in sorted(SLOPES) for record in records] == ([False] * 2 + [True] * 10) * 2
    assert last["3d/slope_chosen"] > 0 > last["3d/slope_rejected"]


class AtTheEnd(Callback):
    """Computes the measurement in another way."""

    def on_train_end(self, trainer, pl_module):
        data = trainer.datamodule
        batch = data._collator("train")(lit_align.data.collate.Drawn([data.examples("train")[i] for i in range(5)]))
        module = copy.deepcopy(pl_module.policy).eval()
        with torch.no_grad():
            policy = module.sequence_logps(batch.rows, statistics=True)
            reference = pl_module.reference.logps(batch.rows)
        ratios = policy.logratios(reference)
        a, c = ratios[batch.chosen], ratios[batch.rejected]
        self.expected = {
            "dlogp_chosen": a.mean(),
            "dlogp_rejected": c.mean(),
            "drop_ratio": c.abs().mean() / a.abs().mean(),
            "log_grad_ratio": (policy.sums[batch.chosen] - policy.sums[batch.rejected]).mean(),
            "loss_weight": torch.sigmoid(-0.1 * (a - c)).mean(),
            "coef_chosen": 0.1 * torch.sigmoid(-0.1 * (a - c)).mean(),
            "coef_rejected": 0.1 * torch.sigmoid(-0.1 * (a - c)).mean(),
            "frac_chosen_below_ref": (a < 0).double().mean(),
            "entropy": module.statistics.entropy.double().mean(),
        }


def test_values_are_those_of_the_pairs(tiny_model_dir, pairs, tmp_path):
    measured, end = diagnostics(), AtTheEnd()
    fit(tiny_model_dir, pairs, tmp_path, measured, end)
    for name, value in end.expected.items():
        assert measured.values[f"3d/{name}"] == pytest.approx(value.item(), rel=1e-5, abs=1e-6), name


class Peaks(Callback):
    """Notes the mean of the chosen responses and its peak; stands behind the diagnostics."""

    def __init__(self, measured: ThreeDDiagnostics) -> None:
        self.measured = measured
        self.means: list[float] = []
        self.peaks: list[float] = []

    def on_train_start(self, trainer: Trainer, pl_module: Any, *args: Any) -> None:
        values = self.measured.values
        self.means.append(values["3d/peak_chosen"] + values["3d/chosen_minus_peak"])
        self.peaks.append(values["3d/peak_chosen"])

    on_train_batch_end = on_train_start


def test_the_peak_is_the_highest_so_far(tiny_model_dir, pairs, tmp_path):
    measured = diagnostics(every_n_steps=1)
    peaks = Peaks(measured)
    fit(tiny_model_dir, pairs, tmp_path, measured, peaks)
    assert len(set(peaks.means)) == 13
    assert peaks.peaks == pytest.approx(list(itertools.accumulate(peaks.means, max)))
    assert measured.peak == peaks.peaks[-1]


def test_training_does_not_notice(tiny_model_dir, pairs, tmp_path):
    plain = fit(tiny_model_dir, pairs, tmp_path / "plain")
    watched = fit(tiny_model_dir, pairs, tmp_path / "watched", diagnostics(every_n_steps=1))
    expected = plain.state_dict()
    assert all(torch.equal(value, expected[name]) for name, value in watched.state_dict().items())
    losses = [
        [json.loads(line).get("loss") for line in (tmp_path / name / "metrics.jsonl").read_text().splitlines()]
        for name in ("plain", "watched")
    ]
    assert losses[0] == losses[1]
    assert all(part.training for part in watched.policy.modules())


@pytest.mark.parametrize("step", [2, 3, 6])
def test_a_resumed_run_measures_the_same(tiny_model_dir, pairs, tmp_path, step):
    checkpoints = tmp_path / "checkpoints"
    saving = RunCheckpoint(every_n_steps=1, keep=-1, dirpath=str(checkpoints))
    fit(tiny_model_dir, pairs, tmp_path / "run", diagnostics(), saving)
    expected = logged(tmp_path / "run")
    again = diagnostics()
    fit(tiny_model_dir, pairs, tmp_path / "run", again, ckpt_path=str(checkpoints / f"step={step}.ckpt"))
    assert logged(tmp_path / "run") == expected


def test_what_the_initial_policy_wrote_comes_with_the_checkpoint(tiny_model_dir, pairs, tmp_path):
    checkpoints = tmp_path / "checkpoints"
    saving = RunCheckpoint(every_n_steps=1, keep=-1, dirpath=str(checkpoints))
    first, again = diagnostics(), diagnostics(seed=1)
    fit(tiny_model_dir, pairs, tmp_path / "run", first, saving)
    fit(tiny_model_dir, pairs, tmp_path / "run", again, ckpt_path=str(checkpoints / "step=6.ckpt"))
    assert again._probe == first._probe
    assert again.history == first.history
    assert again.values["3d/logp_unseen"] == first.values["3d/logp_unseen"]
    # Another seed, other texts of the policy as it is.
    assert again.values["3d/self_sample_ref_nll"] != first.values["3d/self_sample_ref_nll"]


def test_samples_are_scored_under_the_initial_policy(tiny_model_dir, pairs, tmp_path):
    measured = diagnostics(every_n_steps=12)
    module = fit(tiny_model_dir, pairs, tmp_path, measured)
    prompts = [pair.ids[0][: pair.prompt_lengths[0]] for pair in measured._pairs]
    tokenizer = AutoTokenizer.from_pretrained(tiny_model_dir)
    initial = AutoModelForCausalLM.from_pretrained(tiny_model_dir).eval()
    written = generate(module.policy, tokenizer, prompts, max_new_tokens=6, temperature=1.0, seed=0)
    total = number = 0
    for prompt, completion in zip(prompts, written, strict=True):
        ids = torch.tensor([prompt + completion.ids])
        with torch.no_grad():
            logps = initial(input_ids=ids).logits[0, len(prompt) - 1 : -1].double().log_softmax(-1)
        total -= logps.gather(-1, ids[0, len(prompt) :, None]).sum().item()
        number += len(completion.ids)
    assert measured.values["3d/self_sample_ref_nll"] == pytest.approx(total / number, rel=1e-5)


@pytest.mark.parametrize(("method", "callbacks"), [("SimPO", []), ("DPO", [ReferenceSync(every_n_steps=2, alpha=0.5)])])
def test_without_the_initial_policy_its_likelihoods_are_left_out(tiny_model_dir, pairs, tmp_path, method, callbacks):
    measured = diagnostics()
    fit(tiny_model_dir, pairs, tmp_path, measured, *callbacks, method=method)
    assert measured.values.keys() == {f"3d/{name}" for name in (NAMES | SLOPES) - {"self_sample_ref_nll"}}


def test_slopes_are_those_of_straight_lines():
    assert slopes([[0.0, 1.0, 5.0], [10.0, 3.0, 4.0]]) == pytest.approx([0.2, -0.1])
    steps = torch.arange(0.0, 50.0, 7.0, dtype=torch.float64)
    noise = torch.tensor([1.0, -1.0, -1.0, 1.0] * 2, dtype=torch.float64)
    table = torch.stack([steps, 3 * steps + noise, -steps], 1).tolist()
    x, y = steps - steps.mean(), 3 * steps + noise
    assert slopes(table) == pytest.approx([(x @ y / (x @ x)).item(), -1.0])


def test_slopes_forget_what_is_long_ago(tiny_model_dir, pairs, tmp_path, monkeypatch):
    monkeypatch.setattr("lit_align.callbacks.three_d_diagnostics._LOGS", 4)
    measured = diagnostics(every_n_steps=1, max_new_tokens=0)
    fit(tiny_model_dir, pairs, tmp_path, measured)
    assert [step for step, *_ in measured.history] == [9, 10, 11, 12]
    assert measured.values["3d/slope_chosen"] == slopes(measured.history)[0]


@pytest.mark.parametrize("method", ["SimPO", "ORPO", "FlexDPO", "StableCPO"])
def test_methods_on_pairs(tiny_model_dir, pairs, tmp_path, method):
    measured = diagnostics(max_new_tokens=0)
    fit(tiny_model_dir, pairs, tmp_path, measured, method=method)
    written = {"logp_unseen", "self_sample_ref_nll"}
    assert measured.values.keys() == {f"3d/{name}" for name in (NAMES | SLOPES) - written}
    assert measured.values["3d/dlogp_chosen"] != 0
    betas = {"FlexDPO": (0.1, 0.08), "SimPO": (2.0, 2.0)}.get(method, (0.1, 0.1))
    weight = measured.values["3d/loss_weight"]
    found = [measured.values[f"3d/coef_{side}"] for side in ("chosen", "rejected")]
    assert found == pytest.approx([weight * beta for beta in betas])


def first_measurement(model: str, pairs: str, folder: Path, strategy: str | None) -> dict[str, float]:
    measured = diagnostics(every_n_steps=3)
    settings: dict[str, Any] = {}
    if strategy:
        settings = {"devices": 2, "strategy": FSDP2Strategy() if strategy == "fsdp2" else strategy}
    # Of the initial policy: after a step, two processes have seen other rows than one.
    fit(model, pairs, folder, measured, max_steps=1, **settings)
    return measured.values


@pytest.mark.parametrize("strategy", ["ddp", "fsdp2"])
def test_two_processes_agree(tiny_model_dir, pairs, tmp_path, strategy):
    alone = first_measurement(tiny_model_dir, pairs, tmp_path / "one", None)
    both = launch(first_measurement, tiny_model_dir, pairs, tmp_path / "two", strategy, world=2)
    assert both[0] == both[1]
    assert both[0] == pytest.approx(alone, rel=1e-5)


def later_measurement(model: str, pairs: str, folder: Path) -> dict[str, float]:
    measured = diagnostics(every_n_steps=2)
    fit(model, pairs, folder, measured, max_steps=3, devices=2, strategy=FSDP2Strategy())
    return measured.values


def test_sharded_models_are_measured_while_they_train(tiny_model_dir, pairs, tmp_path):
    one, two = launch(later_measurement, tiny_model_dir, pairs, tmp_path, world=2)
    assert one == two
    assert one.keys() == {f"3d/{name}" for name in NAMES | SLOPES}


def test_validation_pairs_come_first(tiny_model_dir, pairs, tmp_path):
    other = tmp_path / "other.jsonl"
    other.write_text(json.dumps({"prompt": "x", "chosen": " y", "rejected": " z"}) + "\n")
    measured = diagnostics(num_pairs=3)
    fit(tiny_model_dir, pairs, tmp_path, measured, max_steps=1, data={"validation": str(other)})
    assert len(measured._pairs) == 1


def test_methods_without_pairs_are_refused(tiny_model_dir, pairs, tmp_path):
    with pytest.raises(ConfigError, match="SFT, which learns from something else"):
        fit(tiny_model_dir, pairs, tmp_path, diagnostics(), method="SFT", data={"convert": "pairs_to_chosen"})


def test_the_first_pair_of_an_example():
    example = Example(3, [[1, 2], [1, 3], [1, 4]], [1, 1, 1], [[1], [0], [1]], pairs=[(2, 0), (1, 0)])
    assert first_pair(example) == Example(3, [[1, 4], [1, 2]], [1, 1], [[1], [1]], pairs=[(0, 1)])


@pytest.mark.parametrize("setting", [{"every_n_steps": 0}, {"num_pairs": -1}])
def test_bad_settings_are_refused(setting):
    with pytest.raises(ConfigError, match=f"{next(iter(setting))}: {next(iter(setting.values()))}"):
        ThreeDDiagnostics(**setting)
