"""The reward that a preference-trained policy has learnt without saying so: its log-ratio to the reference."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from lit_align.core.batch import Example
from lit_align.core.errors import ConfigError
from lit_align.core.forward import Scorer
from lit_align.core.ranges import finite, positive
from lit_align.data.text_settings import TextSettings
from lit_align.functional.length import length_penalised
from lit_align.judges.base import Columns, CountingPointwise, Judged
from lit_align.judges.reward_model import finite_or_none
from lit_align.judges.text_model import CUT, TextModel, count_cut
from lit_align.references import Reference
from lit_align.rollouts.engine import Prompt


class ImplicitReward(CountingPointwise):
    """DPO's implicit reward, beta * (logp under the policy - logp under the reference), as a judge.

    With a price of length it is the reward that DICE (Chen et al. 2024, arXiv 2406.09760) bootstraps with.

    Args:
        policy: folder or hub name of the trained policy.
        reference: folder or hub name of the model that it was trained against, with the same tokenizer.
        beta: reward per nat.
        per_token: divide by the number of scored tokens.
        length_price: reward that each scored token costs; see `functional.length.search_length_price`.
        **text_model: further settings of both models and their texts, see `TextModel`.

    Raises:
        ConfigError: a setting is out of range.
    """

    def __init__(
        self,
        policy: str,
        reference: str,
        beta: float = 0.1,
        per_token: bool = False,
        length_price: float = 0.0,
        **text_model: Any,
    ) -> None:
        self.policy = TextModel(policy, "lm", **text_model)
        self.reference = TextModel(reference, "lm", **text_model)
        self.beta, self.per_token = positive("beta", beta), per_token
        self.length_price = finite("length_price", length_price)
        self._within: Callable[[], AbstractContextManager[None]] = nullcontext
        """What has to be entered for the reference's model to be the reference."""

    @classmethod
    def of(
        cls,
        policy: Scorer,
        reference: Scorer | Reference | str,
        tokenizer: PreTrainedTokenizerBase,
        name: str,
        texts: TextSettings | None = None,
        **settings: Any,
    ) -> ImplicitReward:
        """A judge out of models that are there already, such as those of a run.

        Args:
            policy: scores tokens.
            reference: scores tokens; a run's reference, which may be the policy with other adapters; or the folder or
                hub name of a model.
            tokenizer: of both.
            name: folder or hub name of the policy, where its limits are read.
            texts: how texts become tokens; None: as the settings say.
            **settings: of the judge.

        Raises:
            ConfigError: the run's reference has no model.
        """
        judge = cls(name, reference if isinstance(reference, str) else name, **settings)
        judge.policy.use(policy, tokenizer, texts)
        if isinstance(reference, Reference):
            reference, judge._within = reference.model_within()
        if not isinstance(reference, str):
            judge.reference.use(reference, tokenizer)
        return judge

    def _score(self, prompts: Sequence[Prompt], completions: Sequence[str], columns: Columns) -> list[Judged]:
        self._check_vocabulary()
        read = self.policy.read(prompts, completions)
        kept = [example for example in read if isinstance(example, Example)]
        self.counts.events[CUT] += count_cut(kept)
        policy = self.policy.values(kept, _sums)
        with self._within():
            reference = self.reference.values(kept, _sums)
        sums = [torch.tensor([text for (text,) in values], dtype=torch.float64) for values in (policy, reference)]
        rewards = iter(self._rewards(*sums).tolist() if kept else [])
        return [
            finite_or_none(next(rewards)) if isinstance(example, Example) else Judged(None, example.reason)
            for example in read
        ]

    def _rewards(self, policy: Tensor, reference: Tensor) -> Tensor:
        """[M] float64 of summed log-probabilities and lengths, [M, 2] each."""
        lengths = policy[:, 1]
        rewards = self.beta * (policy[:, 0] - reference[:, 0])
        rewards = rewards / lengths if self.per_token else rewards
        return length_penalised(rewards, lengths, self.length_price, target=0) if self.length_price else rewards

    def _check_vocabulary(self) -> None:
        sizes = [len(model.tokenizer) for model in (self.policy, self.reference)]
        if sizes[0] != sizes[1]:
            raise ConfigError(
                "the policy and its reference must read the same tokens",
                got=f"{self.policy.name} with {sizes[0]} tokens, {self.reference.name} with {sizes[1]}",
                fix="name the model that the policy was trained against",
            )

    def release(self) -> None:
        """Give back the memory of both models."""
        self.policy.release()
        self.reference.release()


def _sums(scorer: Any, rows: Any) -> Tensor:
    """[M, 2]: summed log-probability, nats, and number of scored tokens of each response."""
    logps = scorer.sequence_logps(rows)
    return torch.stack([logps.sums, logps.lengths.to(logps.sums)], 1)
