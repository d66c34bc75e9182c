"""TRL's metrics of single tokens: their values, and the steps that pay for them."""

from __future__ import annotations

import json

import pytest
import torch

from lit_align import DPO, PreferenceDataModule, Trainer
from lit_align.core.batch import DataKind, Layout
from lit_align.core.module import AlignmentModule
from lit_align.core.policy import LoRASpec
from tests.methods.scoring import collated, make_examples, ready, scored
from tests.runs import write_pairs

NAMES = {"entropy", "mean_token_accuracy", "logits/chosen", "logits/rejected"}


def by_hand(module: AlignmentModule, examples) -> dict[str, float]:
    """The same from the plain model's logits, response by response."""
    sums: dict[str, list[torch.Tensor]] = {name: [] for name in NAMES}
    for example in examples:
        for number, (ids, prompt) in enumerate(zip(example.ids, example.prompt_lengths, strict=True)):
            with module.policy.plain(), torch.no_grad():
                logits = module.policy.model(input_ids=torch.tensor([ids])).logits[0, prompt - 1 : -1]
            if example.masks is not None:
                logits, target = (
                    x[torch.tensor(example.masks[number]).bool()] for x in (logits, torch.tensor(ids[prompt:]))
                )
            else:
                target = torch.tensor(ids[prompt:])
            wanted = example.label if example.label is not None and len(example.ids) == 1 else number == 0
            sums["entropy"].append(torch.distributions.Categorical(logits=logits).entropy())
            sums["logits/chosen" if wanted else "logits/rejected"].append(logits.mean(-1))
            if wanted:
                sums["mean_token_accuracy"].append((logits.argmax(-1) == target).double())
    return {name: torch.cat(values).mean().item() for name, values in sums.items() if values}


@pytest.mark.parametrize("lora", [None, LoRASpec(r=2, target_modules=("q_proj", "lm_head"))], ids=["whole", "lora"])
@pytest.mark.parametrize(("name", "kind"), [("DPO", DataKind.PAIRS), ("KTO", DataKind.UNPAIRED)])
def test_values(tiny_model_dir, name, kind, lora):
    module, examples = ready(name, tiny_model_dir, lora=lora), make_examples(kind)
    metrics = scored(module, collated(module, examples, Layout.SHARED)).metrics
    assert {name: metrics[name] for name in NAMES} == pytest.approx(by_hand(module, examples), rel=1e-6)


def test_demonstrations_have_nothing_rejected(tiny_model_dir):
    module = ready("SFT", tiny_model_dir)
    metrics = scored(module, collated(module, make_examples(DataKind.DEMONSTRATIONS), Layout.PACKED)).metrics
    assert NAMES & set(metrics) == {"entropy", "mean_token_accuracy"}


def test_a_response_in_several_pairs_counts_once(tiny_model_dir):
    module, examples = ready("DPO", tiny_model_dir), make_examples(DataKind.PAIRS)
    twice = [example._replace(pairs=[(0, 1)] * 2, margins=[1.0] * 2) for example in examples]
    once, again = (scored(module, collated(module, e, Layout.SHARED)).metrics for e in (examples, twice))
    assert {name: once[name] for name in NAMES} == {name: again[name] for name in NAMES}


def test_only_logged_steps_pay(tiny_model_dir, tmp_path, monkeypatch):
    asked = []
    original = DPO.record_tokens

    def watch(self, *args):
        asked.append((self.trainer.global_step + 1, self.policy.statistics is not None))
        return original(self, *args)

    monkeypatch.setattr(DPO, "record_tokens", watch)
    trainer = Trainer(
        default_root_dir=str(tmp_path / "run"), accelerator="cpu", max_steps=5, log_every_n_steps=3,
        accumulate_grad_batches=2, enable_progress_bar=False, enable_model_summary=False,
    )  # fmt: skip
    data = PreferenceDataModule(write_pairs(tmp_path), batch_size=1, cache_dir=str(tmp_path / "cache"))
    trainer.fit(DPO(policy=tiny_model_dir), data)
    assert asked == [(step, step in (1, 3, 5)) for step in (1, 2, 3, 4, 5) for _ in range(2)]
    rows = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    logged = [row for row in rows if "loss" in row]
    assert len(logged) == 3
    assert all(set(row) >= NAMES for row in logged)
    assert len({row["entropy"] for row in logged}) == 3


def test_sft_of_a_known_text(tiny_model_dir):
    """The likeliest tokens, chosen greedily, are all right."""
    module = ready("SFT", tiny_model_dir)
    ids = [5, 6]
    for _ in range(6):
        with module.policy.plain(), torch.no_grad():
            ids.append(int(module.policy.model(input_ids=torch.tensor([ids])).logits[0, -1].argmax()))
    example = make_examples(DataKind.DEMONSTRATIONS)[0]._replace(ids=[ids], prompt_lengths=[2], masks=None)
    batch = collated(module, [example], Layout.PADDED)
    assert scored(module, batch).metrics["mean_token_accuracy"] == 1.0
