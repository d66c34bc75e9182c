"""How the next token is drawn, and what its log-probability is; each row of a batch has random numbers of its own."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from transformers import LogitsProcessor, MinPLogitsWarper, StoppingCriteria, TopKLogitsWarper, TopPLogitsWarper

from lit_align.core.errors import ConfigError
from lit_align.rollouts.mixing import Mixer


class Drawing(NamedTuple):
    """Which tokens may come, and how likely."""

    temperature: float = 0.0
    """0 takes the likeliest."""
    top_p: float = 1.0
    top_k: int | None = None
    min_p: float = 0.0

    def check(self) -> None:
        """Refuse values that cannot work.

        Raises:
            ConfigError: there is one.
        """
        for name, good, fix in (
            ("temperature", self.temperature >= 0, "give 0 for the likeliest tokens, or a positive number"),
            ("top_p", 0 < self.top_p <= 1, "give a probability above 0; 1 samples from all tokens"),
            ("top_k", self.top_k is None or self.top_k >= 1, "give 1 or more, or null for all tokens"),
            ("min_p", 0 <= self.min_p <= 1, "give a share from 0 to 1; 0 samples from all tokens"),
        ):
            if not good:
                raise ConfigError(f"cannot generate with this {name}", got=f"{name}: {getattr(self, name)}", fix=fix)

    def warpers(self) -> list[LogitsProcessor]:
        """What takes tokens out of the distribution, in the order in which Hugging Face does it."""
        warpers: list[LogitsProcessor] = []
        if self.top_k is not None:
            warpers.append(TopKLogitsWarper(self.top_k))
        if self.top_p < 1:
            warpers.append(TopPLogitsWarper(self.top_p))
        if self.min_p > 0:
            warpers.append(MinPLogitsWarper(self.min_p))
        return warpers


class Sampler(LogitsProcessor):
    """Makes the greedy choice a sample, by adding Gumbel noise; each row draws from a generator of its own.

    Args:
        seeds: one for each row.
        drawing: how to draw.
        mixer: a second model that has a say.
    """

    def __init__(self, seeds: Sequence[int], drawing: Drawing, mixer: Mixer | None = None) -> None:
        self.seeds, self.mixer = seeds, mixer
        self.temperature = drawing.temperature
        self.warpers = drawing.warpers()
        self.generators: list[torch.Generator] = []

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        """[B, V] logits, of which the largest is a sample."""
        policy = scores.float() / (self.temperature or 1.0)
        for warper in self.warpers:
            policy = warper(input_ids, policy)
        drawn = policy
        if self.mixer is not None:
            # Cut off by the policy alone: a mixture may lift tokens that it finds impossible.
            drawn = self.mixer(input_ids, scores) / (self.temperature or 1.0)
            drawn = drawn.masked_fill(policy == -torch.inf, -torch.inf)
        return drawn + self._noise(drawn) if self.temperature > 0 else drawn

    def _noise(self, like: Tensor) -> Tensor:
        if not self.generators:
            self.generators = [torch.Generator(like.device).manual_seed(seed) for seed in self.seeds]
        noise = torch.empty_like(like)
        for row, generator in zip(noise, self.generators, strict=True):
            row.exponential_(generator=generator)
        return -noise.clamp_min_(torch.finfo(noise.dtype).tiny).log_()


class Recorder(StoppingCriteria):
    """Notes the log-probability of every token that is chosen, from the model's own logits; it never stops anything.

    Logits processors see what penalties have left of the logits, so the model itself is listened to.
    """

    def __init__(self) -> None:
        self.chosen: list[Tensor] = []
        self._logits: Tensor | None = None

    @contextmanager
    def listening(self, model: nn.Module) -> Iterator[None]:
        """Note what `model` says, until the block ends."""
        handle = model.register_forward_hook(self._hear)
        try:
            yield
        finally:
            handle.remove()

    def _hear(self, module: nn.Module, inputs: Any, output: Any) -> None:
        # The first call of a step is the policy's; after it the same model may speak as the second of a mixture.
        if self._logits is None:
            self._logits = output.logits[:, -1]

    def __call__(self, input_ids: Tensor, scores: Any, **_: Any) -> Tensor:
        """[B] whether rows are to end: none."""
        assert self._logits is not None, "a token was chosen without logits"
        logits = self._logits.to(torch.promote_types(self._logits.dtype, torch.float32))
        chosen = logits.gather(-1, input_ids[:, -1:].to(logits.device))
        self.chosen.append((chosen - logits.logsumexp(-1, keepdim=True))[:, 0])
        self._logits = None
        return torch.zeros(len(input_ids), dtype=torch.bool, device=input_ids.device)

    def rows(self) -> list[list[float]]:
        """For each row the log-probabilities of its tokens, nats; also of the padding behind its end."""
        values: list[list[float]] = torch.stack(self.chosen, 1).tolist()
        return values
