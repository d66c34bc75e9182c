"""The base of every method: it builds the policy, divides by true counts, logs, and decides what is saved.

A method sees none of this. It gets log-probabilities and returns unreduced losses (see `core/kinds.py`).
"""

from __future__ import annotations

import os
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar, Literal, NamedTuple

import torch
from lightning.pytorch import LightningModule
from lightning.pytorch.callbacks import GradientAccumulationScheduler
from lightning.pytorch.cli import LRSchedulerCallable, OptimizerCallable
from lightning.pytorch.plugins.precision import MixedPrecision
from torch import Tensor
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR, ReduceLROnPlateau

from lit_align.core.attention import resolve_layout
from lit_align.core.batch import Batch, DataKind, Layout
from lit_align.core.capabilities import Capability
from lit_align.core.errors import ConfigError
from lit_align.core.forward import RewardScorer, Scorer
from lit_align.core.hyperparameters import savable
from lit_align.core.metrics import Meter, all_reduce_sum
from lit_align.core.optimisation import Schedule, adamw, schedule_factor
from lit_align.core.outputs import SequenceLogps, Term, reduce_terms
from lit_align.core.policy import PolicySpec, build_policy
from lit_align.core.ranges import not_negative, up_to_one
from lit_align.core.sharding import shard
from lit_align.core.state_hooks import save_only_what_changes
from lit_align.core.steps import is_logged, within_stretch
from lit_align.references import Precomputed, Reference, resolve_reference
from lit_align.references.precomputed import HasExamples


class StepRecord(NamedTuple):
    """What callbacks may read about the micro-batch that was just trained on."""

    loss: Tensor
    """Scalar, detached: the micro-batch's share of the optimiser step's loss."""
    values: Tensor
    """[B] detached, the parts of each example's loss added up: what is not finite here came from this example."""
    source_rows: Tensor
    """[B] 1-based rows of the training data."""
    metrics: dict[str, float]
    """Metrics of the last completed optimiser step; empty before the first."""


class AlignmentModule(LightningModule, ABC):
    """Base class of the alignment methods.

    Args:
        policy: folder or hub name of the model to align.
        reference: where reference log-probabilities come from: auto, frozen_copy, adapters_off, named_adapter,
            precomputed or none; folder or hub name of another model; or a `Reference` object. `auto`: the model
            without its adapters where there are adapters, else a frozen copy; none where the method needs none.
        learning_rate: peak learning rate of the default optimiser, AdamW.
        warmup_ratio: share of the steps over which the learning rate rises linearly.
        schedule: what the learning rate does after that: falls to 0 by a cosine or a line, or stays.
        weight_decay: decay of AdamW, on matrices only.
        optimizer: another optimiser, called with the trainable parameters.
        lr_scheduler: another schedule, called with the optimiser and stepped every optimiser step; ReduceLROnPlateau
            every epoch, by its `monitor`, or by `val/loss`.
        layout: how responses are laid out for the model: shared prompts, packed, padded; auto shares where it is
            exact for the architecture and pads otherwise.
        dtype: dtype of the weights. Keep float32 for full fine-tuning (with `trainer.precision: bf16-mixed`):
            small updates vanish in bfloat16 weights.
        attention: attention kernel of the padded layout and of generation; None lets transformers choose.
        activation_checkpointing: recompute activations in the backward pass, for memory.
        dropout: keep the dropout of the model's configuration; off, as everywhere in preference alignment.
        trust_remote_code: run code that comes with the model.
        revision: branch, tag or commit on the hub.

    Raises:
        ConfigError: a number is out of range, or a reference was given to a method that has none.
    """

    data_kind: ClassVar[DataKind]
    needs_reference: ClassVar[bool] = True
    needs_kl: ClassVar[bool] = False
    """Whether unpaired batches carry mismatched prompts and completions, for a KL estimate."""
    needs_fields: ClassVar[frozenset[str]] = frozenset()
    """What every row of the data must have besides, such as `margin` or `scores`; see `data.demands`."""
    needs_both_labels: ClassVar[bool] = True
    """Whether there is nothing to learn from completions that are all desirable, or all undesirable."""
    reads_target: ClassVar[bool] = False
    """Whether pairs may bring a text to stay close to."""
    head: ClassVar[Literal["lm", "reward", "tokens"]] = "lm"
    normalised_head: ClassVar[bool] = False
    requires: ClassVar[frozenset[Capability]] = frozenset()
    policy: Scorer | RewardScorer
    """Built by `configure_model`."""

    def __init__(
        self,
        policy: str | Path,
        reference: Reference | str = "auto",
        learning_rate: float = 5e-7,
        warmup_ratio: float = 0.1,
        schedule: Schedule = "cosine",
        weight_decay: float = 0.0,
        optimizer: OptimizerCallable | None = None,
        lr_scheduler: LRSchedulerCallable | None = None,
        layout: Literal["auto", "padded", "packed", "shared"] = "auto",
        dtype: Literal["float32", "bfloat16", "float16", "float64", "auto"] = "float32",
        attention: Literal["sdpa", "eager", "flash_attention_2"] | None = None,
        activation_checkpointing: bool = False,
        dropout: bool = False,
        trust_remote_code: bool = False,
        revision: str | None = None,
    ) -> None:
        super().__init__()
        objects = ["optimizer", "lr_scheduler"] + ([] if isinstance(reference, str) else ["reference"])
        self.save_hyperparameters(ignore=objects)
        policy = os.fspath(policy)
        if not self.needs_reference and reference not in ("auto", "none"):
            raise ConfigError(
                f"{type(self).__name__} compares with no reference",
                got=f"model.reference: {reference if isinstance(reference, str) else type(reference).__name__}",
                fix="remove model.reference, or use a method with a reference, such as DPO",
            )
        self.policy_name = policy
        self.policy_spec = PolicySpec(
            name=policy,
            revision=revision,
            dtype=dtype,
            attention=attention,
            trust_remote_code=trust_remote_code,
            dropout=dropout,
            head=self.head,
            activation_checkpointing=activation_checkpointing,
        )
        self.reference_choice = reference
        self.reference_will_refresh = False
        self.learning_rate = not_negative("learning_rate", learning_rate)
        self.warmup_ratio = up_to_one("warmup_ratio", warmup_ratio)
        self.schedule = schedule
        self.weight_decay = not_negative("weight_decay", weight_decay)
        self.optimizer_factory = optimizer
        self.lr_scheduler_factory = lr_scheduler
        self.layout = layout

        self.reference: Reference | None = None
        self.resolved_layout = Layout.PADDED
        self.meter = Meter()
        self.num_tokens = 0.0
        self.last_step: StepRecord | None = None
        self.predict_function: Callable[[AlignmentModule, Any], Any] | None = None
        save_only_what_changes(self)

    # ---------------------------------------------------------------- what a kind of method defines

    @abstractmethod
    def terms(self, batch: Any) -> dict[str, Term]:
        """Unreduced parts of the loss of one micro-batch; records the batch's metrics in `self.meter`."""

    @property
    def score_prompts(self) -> bool:
        """Whether batches also score the tokens of the prompt."""
        return False

    @property
    def num_outputs(self) -> int:
        """How many numbers a head that scores has."""
        return 1

    @property
    def output_names(self) -> tuple[str, ...]:
        """What they stand for, where that has names."""
        return ()

    # ---------------------------------------------------------------- building

    def setup(self, stage: str) -> None:
        """Check that the callbacks suit the method; keep batches in their own precision."""
        # A batch's floating tensors are tables of the loss: margins, and sums of hundreds of nats. None enters the
        # model, and `bf16-true` and `16-true` would round them before any hook could save them.
        vars(self.trainer.precision_plugin)["convert_input"] = _unchanged
        if stage != "fit":
            return
        if any(isinstance(callback, GradientAccumulationScheduler) for callback in self.trainer.callbacks):
            raise ConfigError(
                "optimiser steps of changing size are not supported",
                got="GradientAccumulationScheduler among the callbacks",
                fix="remove it, and set trainer.accumulate_grad_batches",
            )
        provided = {c for callback in self.trainer.callbacks for c in getattr(callback, "provides", ())}
        for capability in sorted(self.requires - provided):
            raise ConfigError(
                f"{type(self).__name__} needs a callback that provides '{capability.value}'",
                got=", ".join(type(callback).__name__ for callback in self.trainer.callbacks) or "no callbacks",
                fix="add one under trainer.callbacks in the configuration",
            )

    def teardown(self, stage: str) -> None:
        """Leave the trainer as it was."""
        vars(self.trainer.precision_plugin).pop("convert_input", None)

    def configure_model(self) -> None:
        """Build the policy and its reference; called again by validate and test, when there is nothing to do."""
        if hasattr(self, "policy"):
            self._fill_reference()
            return
        if self._trainer is not None and self.trainer.precision == "64-true":
            # Lightning converts the model after it has restored a checkpoint, which float32 weights would round.
            self.policy_spec = replace(self.policy_spec, dtype="float64")
        self.policy_spec = replace(
            self.policy_spec,
            outputs=self.num_outputs,
            output_names=self.output_names,
            normalised_head=self.normalised_head,
        )
        # Weights in 4 bits are packed where they will be used; others are loaded on the host and then moved or sharded.
        packed_in_place = self.policy_spec.quantization is not None and self._trainer is not None
        model = build_policy(self.policy_spec, self.trainer.strategy.root_device if packed_in_place else "cpu")
        self.resolved_layout = resolve_layout(self.layout, model.config)
        self.policy = Scorer(model) if self.head == "lm" else RewardScorer(model, normalised=self.normalised_head)
        if self.needs_reference:
            self.reference = resolve_reference(
                self.reference_choice,
                has_adapters=self.policy_spec.lora is not None,
                will_refresh=self.reference_will_refresh,
            )
            assert isinstance(self.policy, Scorer), "reward models have no reference"
            self.reference.build(self.policy, self.policy_spec)
            # Known before a checkpoint is read: a refreshed reference has to be among what is restored.
            self.reference.is_state = self.reference_will_refresh
        if self._device_mesh is not None:
            shard(self.policy, self._device_mesh["data_parallel"])
            if self.reference is not None:
                self.reference.shard(self._device_mesh["data_parallel"])
        self.policy.train()
        self._fill_reference()

    def _warn_of_low_precision(self) -> None:
        full = self.policy_spec.lora is None
        if full and any(
            p.requires_grad and p.dtype in (torch.bfloat16, torch.float16) for p in self.policy.parameters()
        ):
            self.print(
                "warning: full fine-tuning of 16-bit weights loses updates smaller than 1/256 of a weight; "
                "use model.dtype: float32 with trainer.precision: bf16-mixed"
            )

    def _fill_reference(self) -> None:
        """Fill a precomputed reference for the data of this stage, before a loader hands out any."""
        if self._trainer is None:
            return
        if isinstance(self.reference, Precomputed) and isinstance(data := self.trainer.datamodule, HasExamples):
            strategy = self.trainer.strategy
            # Here new tensors default to the run's device; what is scored is collated on the host.
            with torch.device("cpu"):
                self.reference.fill(
                    data, self.policy_spec, strategy.root_device, self.resolved_layout, strategy.precision_plugin
                )

    def on_fit_start(self) -> None:
        """Warn of what the precision will lose."""
        self._warn_of_low_precision()

    # ---------------------------------------------------------------- steps

    @property
    def metrics_are_read(self) -> bool:
        """Whether anybody will see this batch's metrics: those of held-out rows, and of the steps that are logged."""
        return not self.trainer.training or is_logged(self.trainer)

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        """Loss of one micro-batch, scaled so that means are over true counts of the optimiser step.

        Lightning divides by `accumulate_grad_batches`, and DDP and FSDP average gradients over ranks; the factor
        here undoes both.
        """
        terms = self._checked_terms(batch)
        if batch.window is None:
            counts, factor = batch.counts(), 1
        else:
            counts, factor = batch.window, self.trainer.world_size * self.trainer.accumulate_grad_batches
        loss = reduce_terms(terms, counts)
        self._observe(terms, batch)
        self.num_tokens += batch.rows.num_tokens
        self.last_step = StepRecord(
            loss=loss.detach(),
            values=torch.stack([term.values.detach() for term in terms.values()]).sum(0),
            source_rows=batch.source_rows,
            metrics=self.last_step.metrics if self.last_step else {},
        )
        return loss * factor

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        """Collect losses and metrics of held-out data."""
        self._observe(self._checked_terms(batch), batch)

    def test_step(self, batch: Batch, batch_idx: int) -> None:
        """Collect losses and metrics of test data."""
        self._observe(self._checked_terms(batch), batch)

    def predict_step(self, batch: Any, batch_idx: int) -> Any:
        """Score or generate, as the verb that runs this has set."""
        if self.predict_function is None:
            raise ConfigError(
                "nothing says what to predict",
                got="trainer.predict without a prediction function",
                fix="call score or generate of lit_align.Trainer, or use `lit-align score` or `lit-align generate`",
            )
        return self.predict_function(self, batch)

    def _checked_terms(self, batch: Batch) -> dict[str, Term]:
        """The terms; a loss that was averaged already would be divided a second time."""
        terms = self.terms(batch)
        for name, term in terms.items():
            if term.values.shape != batch.source_rows.shape:
                raise ConfigError(
                    f"{type(self).__name__}.losses must return one loss for each example",
                    got=f"'{name}' of shape {list(term.values.shape)} for {len(batch.source_rows)} examples",
                    fix="leave out the mean: the base class divides by the counts of the whole optimiser step",
                )
        return terms

    def _observe(self, terms: dict[str, Term], batch: Batch) -> None:
        counts = batch.counts()
        for name, term in terms.items():
            count = torch.as_tensor(getattr(counts, term.per.value), dtype=torch.float64)
            # A part of the loss that a whole step has no example of, as desirable ones, is 0.
            self.meter.add(f"loss/{name}", term.values.sum(), count=count.clamp(min=1e-300))

    def _flush(self, prefix: str = "") -> dict[str, float]:
        """Read the metrics, log them, and start anew."""
        metrics = self.meter.compute()
        self.meter.reset()
        parts = {name: metrics.pop(name) for name in [n for n in metrics if n.startswith("loss/")]}
        if len(parts) > 1:
            metrics |= parts
        metrics["loss"] = sum(parts.values())
        metrics |= self.derived_metrics(metrics)
        shown = ("loss", "rewards/accuracies", "rewards/margins", "accuracy")
        for name, value in metrics.items():
            # Ranks agree already; `sync_dist` only tells Lightning, which would warn after a validation.
            self.log(prefix + name, value, prog_bar=name in shown, sync_dist=bool(prefix))
        return metrics

    def derived_metrics(self, means: dict[str, float]) -> dict[str, float]:
        """Metrics that follow from the means of others."""
        return {}

    def on_before_optimizer_step(self, optimizer: Optimizer) -> None:
        """Log the metrics of the optimiser step."""
        metrics = self._flush()
        metrics["num_tokens"] = self._total_tokens()
        metrics["grad_norm"] = self._gradient_norm()
        self.log_dict({"num_tokens": metrics["num_tokens"], "grad_norm": metrics["grad_norm"]})
        self.log("learning_rate", optimizer.param_groups[0]["lr"])
        if self.last_step is not None:
            self.last_step = self.last_step._replace(metrics=metrics)

    def on_validation_epoch_start(self) -> None:
        """Set the training metrics of an unfinished accumulation window aside."""
        self._training_meter, self.meter = self.meter, Meter()

    def on_validation_epoch_end(self) -> None:
        """Log `val/` metrics over all held-out rows."""
        self._flush("val/")
        self.meter = self._training_meter

    def on_test_epoch_start(self) -> None:
        """Set the same aside that a checkpoint has brought along."""
        self._training_meter, self.meter = self.meter, Meter()

    def on_test_epoch_end(self) -> None:
        """Log `test/` metrics over all test rows."""
        self._flush("test/")
        self.meter = self._training_meter

    def _total_tokens(self) -> float:
        return float(all_reduce_sum(torch.tensor(self.num_tokens, dtype=torch.float64, device=self.device)))

    def _gradient_norm(self) -> float:
        gradients = [p.grad for p in self.policy.parameters() if p.grad is not None]
        norm = torch.nn.utils.get_total_norm(gradients)
        return float(norm.full_tensor() if hasattr(norm, "full_tensor") else norm)

    # ---------------------------------------------------------------- references

    def reference_logps(self, batch: Any, *, whole: bool = False) -> SequenceLogps | None:
        """Log-probabilities of the batch's responses under the reference, without gradient.

        Args:
            batch: with `rows` and perhaps cached values.
            whole: leave the whole distributions behind on the reference, for features that compare with them.
        """
        if self.reference is None:
            return None
        return self.reference.logps(batch.rows, cached=batch.reference_logps, whole=whole)

    # ---------------------------------------------------------------- optimiser

    def configure_optimizers(self) -> Any:
        """AdamW with warm-up and a schedule, or what the user gave."""
        trainable = (p for p in self.policy.parameters() if p.requires_grad)
        if self.optimizer_factory is not None:
            optimizer = self.optimizer_factory(trainable)
        else:
            # Lightning cannot clip the gradients of a fused optimiser under autocast.
            fused = self.device.type == "cuda" and not isinstance(self.trainer.precision_plugin, MixedPrecision)
            optimizer = adamw(trainable, self.learning_rate, self.weight_decay, fused=fused)
        if self.lr_scheduler_factory is not None:
            scheduler: Any = self.lr_scheduler_factory(optimizer)
        else:
            scheduler = LambdaLR(optimizer, self._learning_rate_factor)
        settings = {"scheduler": scheduler, "interval": "step"}
        if isinstance(scheduler, ReduceLROnPlateau):
            settings |= {"interval": "epoch", "monitor": getattr(scheduler, "monitor", "val/loss")}
        return {"optimizer": optimizer, "lr_scheduler": settings}

    def _learning_rate_factor(self, step: int) -> float:
        return schedule_factor(*within_stretch(self.trainer, step), self.warmup_ratio, self.schedule)

    # ---------------------------------------------------------------- checkpoints

    def saved_names(self, names: Iterable[str]) -> set[str]:
        """Those of the names that checkpoints hold, since training changes what they name.

        These are the policy's (its adapters', if it has any), a refreshed reference's, and the method's own quantities.
        """
        changing = self.reference if self.reference is not None and self.reference.is_state else None
        trained = {name for name, parameter in self.named_parameters() if parameter.requires_grad}

        def is_saved(name: str) -> bool:
            part = name.partition(".")[0]
            if part != "policy":
                owner = getattr(self, part, None)
                return owner is changing or not isinstance(owner, Reference)
            whole = self.policy_spec.lora is None
            return whole or name in trained or (changing is not None and changing.owns(name))

        return {name for name in names if is_saved(name)}

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Save counters and the metrics of an unfinished accumulation window; only arguments that can be read back."""
        if self.CHECKPOINT_HYPER_PARAMS_KEY in checkpoint:
            # Here, since a subclass may save arguments of its own after this class has.
            arguments = checkpoint[self.CHECKPOINT_HYPER_PARAMS_KEY]
            checkpoint[self.CHECKPOINT_HYPER_PARAMS_KEY] = savable(arguments)
        checkpoint["lit_align"] = {
            "method": type(self).__name__,
            "policy": self.policy_name,
            "policy_spec": self.policy_spec.to_dict(),
            "reference_is_state": self.reference is not None and self.reference.is_state,
            "num_tokens": self._total_tokens(),
            "meter": self.meter.state_dict(),
        }

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Restore counters; refuse weights that do not fit this model."""
        saved = checkpoint.get("lit_align")
        if saved is None:
            raise ConfigError(
                "this checkpoint was not written by lit-align",
                got=f"keys {sorted(checkpoint)[:8]}",
                fix="give the model folder as model.policy, and use --ckpt_path for lit-align's own checkpoints only",
            )
        if self._trainer is None:
            self._rebuild(PolicySpec.from_dict(saved["policy_spec"]), saved["reference_is_state"])
        if "state_dict" in checkpoint:
            self.check_names(set(checkpoint["state_dict"]))
        self.num_tokens = saved["num_tokens"] if self.global_rank == 0 else 0.0
        self.meter.load_state_dict(saved["meter"], self.device)

    def _rebuild(self, spec: PolicySpec, reference_is_state: bool) -> None:
        """Build what the checkpoint was written by: outside a run, no callback tells of adapters and refreshes."""
        spec = replace(self.policy_spec, lora=spec.lora, quantization=spec.quantization)
        if (spec, reference_is_state) != (self.policy_spec, self.reference_will_refresh):
            self.policy_spec, self.reference_will_refresh = spec, reference_is_state
            del self.policy
            self.configure_model()

    def check_names(self, saved: set[str]) -> None:
        """Refuse a checkpoint that holds other weights than this module saves.

        Raises:
            ConfigError: names are missing or too many.
        """
        expected = set(self.state_dict())
        missing, unexpected = sorted(expected - saved), sorted(saved - expected)
        if missing or unexpected:
            raise ConfigError(
                "the checkpoint does not fit this model",
                got=f"{len(missing)} weights missing {missing[:3]}, {len(unexpected)} unexpected {unexpected[:3]}",
                fix="use the same policy, method, LoRA and ReferenceSync settings as the run that wrote it",
            )


def _unchanged(batch: Any) -> Any:
    return batch
