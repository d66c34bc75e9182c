"""FSDP2: what is sharded, when ranks talk, and what is refused."""

from __future__ import annotations

from dataclasses import replace

import lightning as L
import pytest
from lightning.pytorch.plugins.precision import MixedPrecision

from lit_align.core.errors import ConfigError
from lit_align.core.forward import RewardScorer, Scorer
from lit_align.core.fsdp2 import FSDP2Strategy
from lit_align.core.policy import LoRASpec, PolicySpec, build_policy
from lit_align.core.sharding import decoder_layers
from lit_align.rollouts.hf import generate
from tests.distributed.jobs import Data, Job, prepare, run
from tests.distributed.test_two_processes import assert_equal_runs
from tests.helpers import build_tiny_tokenizer, save_tiny_model
from tests.launch import launch


def test_each_rank_holds_half_of_policy_and_reference(tiny_model_dir):
    """Also after training: no weight stays gathered, in particular none of the reference's root."""
    first, second = launch(run, Job("dpo", tiny_model_dir, "fsdp2", rows=4))
    for part in ("policy.", "reference."):
        names = [name for name in first.local if name.startswith(part)]
        whole = sum(first.local[name][1] for name in names)
        shares = [sum(result.local[name][0] for name in names) for result in (first, second)]
        assert sum(shares) == whole > 0
        assert shares == pytest.approx([whole / 2] * 2, rel=0.01)


def test_tied_embeddings_stay_tied(tmp_path, alone):
    model = save_tiny_model(tmp_path / "tied", tie_word_embeddings=True)
    job = Job("orpo", model, rows=8)
    got, _ = launch(run, replace(job, strategy="fsdp2", rows=4))
    assert not any("lm_head" in name for name in got.weights)
    assert_equal_runs(got, alone(job))


@pytest.mark.parametrize("activation_checkpointing", [False, True])
def test_a_single_process_is_sharded_over_itself(activation_checkpointing, tiny_model_dir, alone):
    module = (("activation_checkpointing", activation_checkpointing),)
    got, *_ = launch(run, Job("orpo", tiny_model_dir, "fsdp2", module=module), world=1)
    assert_equal_runs(got, alone(Job("orpo", tiny_model_dir)))


def test_activation_checkpointing_on_two_processes(tiny_model_dir, alone):
    job = Job("dpo", tiny_model_dir, "fsdp2", rows=4, module=(("activation_checkpointing", True),), validate=True)
    got, _ = launch(run, job)
    assert_equal_runs(got, alone(Job("dpo", tiny_model_dir, validate=True)))


def test_three_processes_share_weights_that_do_not_divide_evenly(tiny_model_dir, alone):
    job = Job("orpo", tiny_model_dir, rows=9)
    first, *_ = launch(run, replace(job, strategy="fsdp2", rows=3), world=3)
    assert_equal_runs(first, alone(job))


def test_bfloat16_autocast_equals_that_of_replicas(tiny_model_dir):
    job = Job("dpo", tiny_model_dir, "fsdp2", rows=4, trainer=(("precision", "bf16-mixed"),))
    sharded, _ = launch(run, job)
    replicated, _ = launch(run, replace(job, strategy="ddp"))
    assert_equal_runs(sharded, replicated)


# -------------------------------------------------------------------- communication


class _WatchGradients(L.Callback):
    """Notes after each backward pass whether gradients have been reduced into the shards."""

    def __init__(self) -> None:
        self.reduced: list[bool] = []

    def on_after_backward(self, trainer: L.Trainer, module: L.LightningModule) -> None:
        self.reduced.append(any(parameter.grad is not None for parameter in module.policy.parameters()))


def _run_watched(job: Job) -> tuple[list[bool], list[dict[str, float]]]:
    module, trainer, recorder = prepare(job)
    watch = _WatchGradients()
    trainer.callbacks.append(watch)
    trainer.fit(module, Data(job))
    return watch.reduced, recorder.steps


@pytest.mark.parametrize(("every", "expected"), [(False, [False, True] * 4), (True, [True] * 8)])
def test_gradients_are_reduced_once_per_optimiser_step(every, expected, tiny_model_dir, alone):
    job = Job(
        "dpo", tiny_model_dir, "fsdp2", rows=2, accumulate=2, strategy_options=(("sync_every_micro_batch", every),)
    )
    for reduced, steps in launch(_run_watched, job):
        assert reduced == expected
        losses = [step["loss"] for step in alone(Job("dpo", tiny_model_dir, validate=True)).steps]
        assert [step["loss"] for step in steps] == pytest.approx(losses, rel=1e-5)


# -------------------------------------------------------------------- generation


def _train_and_complete(job: Job) -> tuple[list[list[int]], list[float]]:
    """Completions after training, another number on each rank; and the loss of one epoch more."""
    module, trainer, recorder = prepare(job)
    texts: list[list[int]] = []

    class Complete(L.Callback):
        def on_train_epoch_end(self, trainer: L.Trainer, module: L.LightningModule) -> None:
            prompts = ["one", "two and three"][: 2 - trainer.global_rank]
            completions = generate(module.policy, build_tiny_tokenizer(), prompts, max_new_tokens=6, temperature=1.0)
            texts.extend(completion.ids for completion in completions)

    trainer.callbacks.append(Complete())
    trainer.fit(module, Data(job))
    return texts, [step["loss"] for step in recorder.steps]


def test_generation_from_shards_between_steps(tiny_model_dir, alone):
    """Ranks may complete different numbers of prompts; training goes on as if they had not."""
    (expected, _), *_ = launch(_train_and_complete, Job("dpo", tiny_model_dir), world=1)
    (first, losses), (second, _) = launch(_train_and_complete, Job("dpo", tiny_model_dir, "fsdp2", rows=4))
    assert first == expected
    assert second == expected[::2]
    untouched = [step["loss"] for step in alone(Job("dpo", tiny_model_dir, validate=True)).steps]
    assert losses == pytest.approx(untouched, rel=1e-5)


# -------------------------------------------------------------------- in one process, without a group


@pytest.mark.parametrize("lora", [None, LoRASpec(r=2)])
@pytest.mark.parametrize("head", ["lm", "reward"])
def test_decoder_layers_are_found_in_every_kind_of_policy(head, lora, tiny_model_dir):
    model = build_policy(PolicySpec(name=tiny_model_dir, head=head, lora=lora))
    scorer = RewardScorer(model) if head == "reward" else Scorer(model)
    assert [type(layer).__name__ for layer in decoder_layers(scorer)] == ["LlamaDecoderLayer"] * 2


@pytest.mark.filterwarnings("ignore:.*GradScaler.*")
def test_precision_that_needs_a_gradient_scaler_is_refused():
    strategy = FSDP2Strategy()
    strategy.precision_plugin = MixedPrecision("16-mixed", "cuda")
    with pytest.raises(ConfigError, match=r"(?s)precision.*16-mixed.*bf16-mixed"):
        strategy.setup_environment()


def test_the_strategy_has_a_name():
    from lit_align.trainer import AlignTrainer

    trainer = AlignTrainer(strategy="fsdp2", accelerator="cpu", devices=1, logger=False, barebones=True)
    assert isinstance(trainer.strategy, FSDP2Strategy)
