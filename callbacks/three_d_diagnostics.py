"""What preference training does to likelihoods: the three Ds of DPO, on pairs that stay the same."""

from __future__ import annotations

import itertools
import math
from typing import TYPE_CHECKING, Any, NamedTuple, cast

import torch
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.utilities.seed import isolate_rng
from torch import Tensor

from lit_align.core.batch import Example
from lit_align.core.errors import ConfigError
from lit_align.core.gathering import gathered
from lit_align.core.kinds import PairwiseModule
from lit_align.core.outputs import PairLogps
from lit_align.core.ranges import positive
from lit_align.core.side_pass import ResponseScores, score_responses
from lit_align.core.steps import OptimizerStepCallback
from lit_align.data.lookup import loaded_examples
from lit_align.rollouts.hf import generate

if TYPE_CHECKING:
    from lit_align.core.module import AlignmentModule

_TINY = 1e-8
_LOGS = 100
"""Measurements that slopes are taken over."""


class Probe(NamedTuple):
    """What the initial policy made of the probed responses, and what it wrote itself; plain lists, for a checkpoint."""

    chosen: list[float]
    """Summed log-probabilities of the chosen responses, nats."""
    rejected: list[float]
    unseen: list[list[int]]
    """For each pair, tokens that the initial policy wrote to the prompt; empty where it wrote nothing."""
    unseen_means: list[float]
    """Their log-probabilities under it, nats per token, without the empty ones."""


class ThreeDDiagnostics(OptimizerStepCallback):
    """Measures, every n optimiser steps and before the first, what becomes of the likelihood of a few fixed pairs.

    Yan et al., "3D-Properties: Identifying Challenges in DPO and Charting a Path Forward" (2024),
    https://arxiv.org/abs/2406.07327: methods that compare two responses tend to a Drastic drop of rejected ones,
    Degradation into suppressing them, and Dispersion to responses that nobody asked for. For any method on pairs; all
    changes are against the policy that training began with. Logged, as means over the pairs:

    - `3d/dlogp_chosen`, `3d/dlogp_rejected`: change of the log-probability, nats; `3d/drop_ratio`: mean absolute change
      of the rejected over that of the chosen ones, above 1 where the former fall faster than the latter rise.
    - `3d/slope_chosen`, `3d/slope_rejected`: slopes of these changes over the last 100 measurements, by least squares,
      nats per optimiser step; from the second measurement on.
    - `3d/log_grad_ratio`: log-probability of the chosen less that of the rejected response, for DPO the log of how much
      harder the gradient pushes the rejected probability; `3d/loss_weight`: probability that the rejected one wins by
      the implicit rewards, DPO's weight of the pair; `3d/frac_chosen_below_ref`: share of chosen responses that became
      less likely. `3d/coef_chosen`, `3d/coef_rejected`: that weight times each side's beta, by which DPO and Flex-DPO
      multiply the gradients of the two log-probabilities.
    - `3d/peak_chosen`: the highest mean log-probability of the chosen responses so far, and `3d/chosen_minus_peak`.
    - `3d/entropy`: of the next token over all tokens of the pairs, nats; `3d/logp_unseen`: change of the
      log-probability per token of responses that the initial policy wrote to the same prompts: falling means that
      probability goes elsewhere. `3d/self_sample_ref_nll`: mean negative log-likelihood per token, under the initial
      policy, of what the policy writes to these prompts now: it rises where that would not have been written before.
      Only where the method's reference is that initial policy (frozen_copy, adapters_off or named_adapter, and no
      ReferenceSync); always with the same random numbers, so that changes are those of the policy.

    Training is not touched, and a resumed run logs what one would that was never interrupted.

    Args:
        every_n_steps: optimiser steps between two measurements.
        num_pairs: how many pairs: the first of the validation data, or of the training data where there are no others.
        max_new_tokens: longest response to the probed prompts. Writing `num_pairs` of them is what a measurement mostly
            costs; 0 writes none, and `3d/logp_unseen` and `3d/self_sample_ref_nll` are left out.
        temperature: of these responses.
        seed: of these responses.

    Raises:
        ConfigError: a number is out of range, or the method or the data have no pairs.
    """

    def __init__(
        self,
        every_n_steps: int = 50,
        num_pairs: int = 32,
        max_new_tokens: int = 64,
        temperature: float = 1.0,
        seed: int = 0,
    ) -> None:
        self.every_n_steps = int(positive("every_n_steps", every_n_steps))
        self.num_pairs = int(positive("num_pairs", num_pairs))
        self.max_new_tokens, self.temperature, self.seed = max_new_tokens, temperature, seed
        self.peak: float | None = None
        """The highest mean log-probability of the chosen responses so far, nats."""
        self.values: dict[str, float] = {}
        """The last measurement."""
        self.history: list[list[float]] = []
        """Of the last measurements: optimiser step, `3d/dlogp_chosen`, `3d/dlogp_rejected`."""
        self._probe: Probe | None = None
        self._pairs: list[Example] = []

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Find the pairs; a new run measures the initial policy."""
        super().on_train_start(trainer, pl_module)
        if not isinstance(pl_module, PairwiseModule):
            raise ConfigError(
                "ThreeDDiagnostics looks at pairs",
                got=f"{type(pl_module).__name__}, which learns from something else",
                fix="remove ThreeDDiagnostics, or use a method on pairs",
            )
        store = loaded_examples(trainer)
        wanted = (store[index] for index in range(len(store)))
        self._pairs = [first_pair(e) for e in itertools.islice((e for e in wanted if e.pairs), self.num_pairs)]
        if not self._pairs:
            raise ConfigError("ThreeDDiagnostics has no pairs", got="data without any", fix="give validation pairs")
        if trainer.global_step == 0:
            # This object may have measured another run before.
            self._probe, self.peak, self.values, self.history = None, None, {}, []
        if self._probe is None:
            scores = score_responses(pl_module, self._pairs)
            chosen, rejected = (part.tolist() for part in scores.sums.view(-1, 2).unbind(1))
            unseen = self._write(trainer, pl_module)
            self._probe = Probe(chosen, rejected, unseen, [])
            self._probe = self._probe._replace(unseen_means=self._unseen_means(pl_module).tolist())
            self._measure(pl_module, scores, unseen)

    def after_optimizer_step(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Measure if a measurement is due; log the last one, which loggers repeat at every step."""
        if self._step % self.every_n_steps == 0:
            module = cast("PairwiseModule", pl_module)
            # Of no use, no text is written: not by the initial policy, nor where nothing could score it.
            written = self._write(trainer, module) if _knows_initial_policy(module) else []
            self._measure(module, score_responses(module, self._pairs), written)
        pl_module.log_dict(self.values)

    def state_dict(self) -> dict[str, Any]:
        """What the initial policy made of the pairs, the peak, and the last measurements."""
        probe = None if self._probe is None else self._probe._asdict()
        return {"probe": probe, "peak": self.peak, "values": self.values, "history": self.history}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on from `state_dict`."""
        self._probe = None if state_dict["probe"] is None else Probe(**state_dict["probe"])
        self.peak, self.values, self.history = state_dict["peak"], state_dict["values"], state_dict["history"]

    def _measure(self, module: PairwiseModule, scores: ResponseScores, written: list[list[int]]) -> None:
        """Take the values of all metrics; `written` is what the policy writes now, by pair."""
        assert self._probe is not None
        policy = as_pairs(scores.sums, scores.lengths)
        first = torch.tensor(
            [self._probe.chosen, self._probe.rejected], dtype=torch.float64, device=policy.chosen.device
        )
        initial = policy._replace(chosen=first[0], rejected=first[1])
        zeros = torch.zeros_like(first[0])
        reference = initial if module.needs_reference else initial._replace(chosen=zeros, rejected=zeros)
        changes = policy.logratios(initial)
        wins = [x.double() for x in module.rewards(policy, reference)]
        weight = torch.sigmoid(wins[1] - wins[0]).mean().item()
        mean = policy.chosen.mean().item()
        self.peak = mean if self.peak is None else max(self.peak, mean)
        self.values = {
            "3d/dlogp_chosen": changes.chosen.mean().item(),
            "3d/dlogp_rejected": changes.rejected.mean().item(),
            "3d/drop_ratio": (changes.rejected.abs().mean() / changes.chosen.abs().mean().clamp(min=_TINY)).item(),
            "3d/log_grad_ratio": policy.margins.mean().item(),
            "3d/loss_weight": weight,
            "3d/coef_chosen": weight * getattr(module, "beta_plus", module.beta),
            "3d/coef_rejected": weight * getattr(module, "beta_minus", module.beta),
            "3d/frac_chosen_below_ref": (changes.chosen < 0).double().mean().item(),
            "3d/peak_chosen": self.peak,
            "3d/chosen_minus_peak": mean - self.peak,
            "3d/entropy": (scores.entropies.sum() / scores.lengths.sum()).item(),
        }
        if self._probe.unseen_means:
            before = first.new_tensor(self._probe.unseen_means)
            self.values["3d/logp_unseen"] = (self._unseen_means(module) - before).mean().item()
        if _knows_initial_policy(module) and (examples := self._answered(written)):
            scores = score_responses(module, examples, reference=True)
            self.values["3d/self_sample_ref_nll"] = -(scores.sums.sum() / scores.lengths.sum()).item()
        steps = [[float(self._step), self.values["3d/dlogp_chosen"], self.values["3d/dlogp_rejected"]]]
        self.history = (self.history + steps)[-_LOGS:]
        if len(self.history) > 1:
            self.values["3d/slope_chosen"], self.values["3d/slope_rejected"] = slopes(self.history)

    def _unseen_means(self, module: PairwiseModule) -> Tensor:
        """Log-probabilities per token of what the initial policy wrote, under the policy as it is."""
        assert self._probe is not None
        examples = self._answered(self._probe.unseen)
        if not examples:
            return torch.zeros(0, dtype=torch.float64)
        scores = score_responses(module, examples)
        return scores.sums / scores.lengths

    def _answered(self, written: list[list[int]]) -> list[Example]:
        """The prompts of the pairs with what was written to them, where anything was."""
        return [
            Example(pair.row, [prompt + response], [len(prompt)])
            for pair, response in zip(self._pairs, written, strict=True)
            if response
            for prompt in [pair.ids[0][: pair.prompt_lengths[0]]]
        ]

    def _write(self, trainer: Trainer, module: AlignmentModule) -> list[list[int]]:
        """What the policy writes to the prompts of the pairs; rank 0 writes, the others lend their shards."""
        prompts = [pair.ids[0][: pair.prompt_lengths[0]] for pair in self._pairs]
        config = cast("Any", module.policy.model).config.get_text_config()
        room = getattr(config, "max_position_embeddings", math.inf) - self.max_new_tokens
        places = [place for place, prompt in enumerate(prompts) if 0 < len(prompt) <= room]
        found: list[list[int]] = [[] for _ in prompts]
        tokenizer = getattr(trainer.datamodule, "tokenizer", None)
        if not places or not self.max_new_tokens or tokenizer is None:
            return found
        if trainer.is_global_zero:
            with isolate_rng():
                written = generate(
                    module.policy, tokenizer, [prompts[place] for place in places], seed=self.seed,
                    max_new_tokens=self.max_new_tokens, temperature=self.temperature,
                )  # fmt: skip
            for place, completion in zip(places, written, strict=True):
                found[place] = completion.ids
        else:
            with gathered(module.policy):
                pass
        return cast("list[list[int]]", trainer.strategy.broadcast(found))


def _knows_initial_policy(module: AlignmentModule) -> bool:
    """Whether the method's reference is the policy that training began with."""
    reference = module.reference
    return reference is not None and reference.is_initial and not reference.is_state


def slopes(history: list[list[float]]) -> list[float]:
    """Slopes of straight lines through measurements, by least squares.

    Args:
        history: at least two measurements, each a step and the values at it; not all of one step.

    Returns:
        For each value, its change per step.
    """
    table = torch.tensor(history, dtype=torch.float64)
    centred = table - table.mean(0)
    found: list[float] = ((centred[:, :1] * centred[:, 1:]).sum(0) / centred[:, 0].square().sum()).tolist()
    return found


def first_pair(example: Example) -> Example:
    """An example of two responses, the chosen and the rejected one of the first pair."""
    places = example.pairs[0]
    masks = None if example.masks is None else [example.masks[place] for place in places]
    prompts = [example.prompt_lengths[place] for place in places]
    return Example(example.row, [example.ids[place] for place in places], prompts, masks, pairs=[(0, 1)])


def as_pairs(sums: Tensor, lengths: Tensor) -> PairLogps:
    """Log-probabilities of the pairs of responses, chosen and rejected by turns."""
    (chosen, rejected), (first, second) = sums.view(-1, 2).unbind(1), lengths.view(-1, 2).unbind(1)
    return PairLogps(chosen, rejected, first, second)
