"""The only caller of the model: rows of tokens in, log-probabilities or scores out.

Decoder and head both run inside the `forward` of one wrapper module. Shard that wrapper (FSDP2), and the head's
weight is whole where it is used and its gradient is reduced; using parts of a sharded model from outside gave a
silently wrong gradient of the head.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from functools import partial
from typing import Any

import torch
from lightning.fabric.utilities import move_data_to_device
from torch import Tensor, nn
from torch.distributed.fsdp import FSDPModule
from transformers import PreTrainedModel

from lit_align.core.architectures import needs_eager_attention
from lit_align.core.attention import SEGMENT_ATTENTION
from lit_align.core.batch import Example, Layout, Rows
from lit_align.core.errors import ConfigError
from lit_align.core.layout import build_rows
from lit_align.core.modes import evaluating
from lit_align.core.outputs import SequenceLogps
from lit_align.core.pooling import Pooling, pool_prompts, pool_responses
from lit_align.functional.logprobs import (
    TokenStatistics,
    module_logprobs,
    raw_logits,
    segment_sums,
    tile_size,
    token_logprobs,
    token_statistics,
    token_values,
)
from lit_align.functional.token_features import Distribution, TokenFeature

_PROBE_TOKENS = 96
_TOLERANCE = {torch.float64: 1e-5, torch.float32: 5e-3, torch.float16: 3e-2, torch.bfloat16: 1e-1}
"""Largest mean error of the self-check, as a share of the spread of the plain model's outputs."""
_ROUNDING = 1e-6


class _ModelCaller(nn.Module, ABC):
    """A Hugging Face or PEFT model whose decoder is called on rows.

    Args:
        model: the model; its parameters are this module's.
    """

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model
        self._verified: set[tuple[Layout, bool]] = set()
        """Padded and shared (which stands for packed as well) once they have been checked."""
        base = self._base()
        if getattr(getattr(model, "active_peft_config", None), "is_prompt_learning", False):
            raise ConfigError(
                "Prompt-learning adapters put tokens of their own into the row.",
                got=type(model.active_peft_config).__name__,
                fix="Use LoRA.",
            )
        own = base.config._attn_implementation
        if own == SEGMENT_ATTENTION:
            # A copy of a model that is in use here; its own kernel is not on record.
            own = "eager" if needs_eager_attention(base.config) else base.get_correct_attn_implementation(None)
        self._own_attention = own

    def verify(self, rows: Rows) -> None:
        """Compares itself with the plain model on a few tokens of `rows`, in eval mode and without gradient.

        Args:
            rows: rows in the layout to check.

        Raises:
            ConfigError: the two disagree, so the layout is wrong for this architecture.
        """
        layout = _checked_as(rows)
        examples = _probe_examples(rows, self._base().config.get_text_config().pad_token_id)
        probe = move_data_to_device(build_rows(examples, layout), rows.input_ids.device)
        with evaluating(self), torch.no_grad():
            ours = self._outputs(probe)
            with self.plain():
                plain, spread = self._plain_outputs(examples, rows.input_ids.device)
        error = (ours - plain).abs()
        # Weights that are not finite have no answer to compare with, and are somebody else's to report.
        if plain.isfinite().all() and not error.mean() <= self._tolerance() * spread + _ROUNDING:
            raise ConfigError(
                f"With {layout.value} rows {type(self._base()).__name__} does not compute what it computes alone.",
                got=f"a difference of up to {error.max():.3g}, where outputs spread by {spread:.3g}",
                fix="Set `layout: padded`, and report the architecture."
                if rows.segments is not None
                else "Report the architecture: its head is not the one that was expected.",
            )
        self._verified.add((layout, self._adapters_are_off()))

    def embed(self, rows: Rows) -> Tensor:
        """One vector for each response: the mean of the final hidden states of its scored tokens.

        Returns:
            [M, H] float32, or float64 for float64 models; with gradient.
        """
        self._verify_once(rows)
        return pool_responses(self._hidden(rows), rows)

    def _verify_once(self, rows: Rows) -> None:
        """Check each layout on first use, with adapters and without: the reference's pass may come first."""
        if (_checked_as(rows), self._adapters_are_off()) not in self._verified:
            self.verify(rows)

    def _adapters_are_off(self) -> bool:
        return hasattr(self.model, "peft_config") and any(
            getattr(m, "_disable_adapters", False) for m in self.modules()
        )

    @contextmanager
    def plain(self) -> Iterator[None]:
        """The model as Hugging Face knows it, in eval mode: with its ordinary attention, for `generate`."""
        before = self._base().config._attn_implementation
        self._use_attention(self._own_attention)
        try:
            with evaluating(self):
                yield
        finally:
            self._use_attention(before)

    @abstractmethod
    def _outputs(self, rows: Rows) -> Tensor:
        """What `forward` returns, without the self-check."""

    @abstractmethod
    def _plain_outputs(self, examples: list[Example], device: torch.device) -> tuple[Tensor, Tensor]:
        """The same from the plain model, response by response, and the spread of its outputs."""

    @abstractmethod
    def _decoder(self) -> nn.Module:
        """The part that turns tokens into hidden states."""

    def _base(self) -> Any:
        """The Hugging Face model inside a PEFT one; adapters stand in its layers."""
        unwrap: Any = getattr(self.model, "get_base_model", None)
        return self.model if unwrap is None else unwrap()

    def _hidden(self, rows: Rows) -> Tensor:
        """Final hidden states of all tokens, [R * T, H].

        Padded rows need neither mask nor positions: padding on the right is out of sight of a causal model.
        """
        decoder = self._decoder()
        arguments: dict[str, Any] = {}
        if rows.segments is not None:
            self._use_attention(SEGMENT_ATTENTION)
            arguments = {"position_ids": rows.position_ids, "segments": rows.segments}
        else:
            self._use_attention(self._own_attention)
        output = decoder(input_ids=rows.input_ids, use_cache=False, **arguments)
        hidden: Tensor = output.last_hidden_state
        return hidden.flatten(0, 1)

    def _use_attention(self, implementation: str) -> None:
        """Switches attention, and leaves it so: activation checkpointing computes layers again in the backward."""
        base = self._base()
        if base.config._attn_implementation != implementation:
            base.set_attn_implementation(implementation)

    def _tolerance(self) -> float:
        """Error to allow for, by the lowest precision that computes here; quantised weights count as 16 bits."""
        dtypes = {parameter.dtype for parameter in self.parameters()}
        dtypes |= {
            torch.get_autocast_dtype(device)
            for device in {parameter.device.type for parameter in self.parameters()}
            if torch.is_autocast_enabled(device)
        }
        return max(_TOLERANCE.get(dtype, _TOLERANCE[torch.bfloat16]) for dtype in dtypes)


class Scorer(_ModelCaller):
    """A causal language model that scores tokens.

    Args:
        model: Hugging Face causal language model, or a PEFT model around one.
    """

    statistics: TokenStatistics | None = None
    """Of the targets of the last call, if it was asked for them."""
    distribution: Distribution | None = None
    """At the targets of the last call, if it was asked for the whole."""

    def forward(
        self,
        rows: Rows,
        *,
        statistics: bool = False,
        whole: bool = False,
        features: Sequence[TokenFeature] = (),
        reference: Distribution | None = None,
        pooling: Pooling | None = None,
    ) -> Tensor | tuple[Tensor, Tensor]:
        """Log-probabilities of the targets of `rows`; checks itself against the plain model on the first call.

        Args:
            rows: what to score.
            statistics: leave `statistics` behind, which costs another pass of the head.
            whole: leave `distribution` behind.
            features: what to compute of the distribution at each target besides, F of them.
            reference: the reference's distribution at the targets, where a feature needs it.
            pooling: return vectors of the responses' prompts as well.

        Returns:
            [N] nats, float32, or float64 for float64 models; with gradient. With features [N, 1 + F]: they follow the
            log-probabilities. With pooling a pair of that and [M, H], with gradient.

        Raises:
            ConfigError: the self-check failed.
        """
        self._verify_once(rows)
        everything = self._hidden(rows)
        hidden = everything.index_select(0, rows.pred_index)
        values = self._values(hidden, rows, features, reference)
        head, shape = self._head(hidden)
        self.statistics = token_statistics(head, hidden, rows.target, **shape) if statistics else None
        self.distribution = self._distribution(hidden) if whole else None
        return values if pooling is None else (values, pool_prompts(everything, rows, pooling))

    def sequence_logps(self, rows: Rows, *, statistics: bool = False) -> SequenceLogps:
        """Log-probabilities of the responses of `rows`, [M] float64 nats, with gradient."""
        tokens = self(rows, statistics=statistics)
        return SequenceLogps(
            segment_sums(tokens, rows.response, len(rows.response_lengths)), rows.response_lengths, tokens
        )

    def distribution_within(self, context: Callable[[], AbstractContextManager[None]]) -> Distribution | None:
        """The distribution left behind, for a head that is itself only inside a context, as without its adapter."""
        if self.distribution is None or _is_plain_linear(self._head()[0]):
            return self.distribution
        outside = self.distribution.logits

        def logits(hidden: Tensor) -> Tensor:
            with context():
                return outside(hidden)

        return self.distribution._replace(logits=logits)

    def _outputs(self, rows: Rows) -> Tensor:
        return self._values(self._hidden(rows).index_select(0, rows.pred_index), rows)

    def _values(
        self,
        hidden: Tensor,
        rows: Rows,
        features: Sequence[TokenFeature] = (),
        reference: Distribution | None = None,
    ) -> Tensor:
        head, shape = self._head(hidden)
        values = None
        if features:
            values = token_values(head, hidden, rows.target, features, reference, **shape)
        if not _is_plain_linear(head):
            return module_logprobs(head, hidden, rows.target, **shape) if values is None else values
        del shape["tile"]
        logps = token_logprobs(hidden, head.weight, rows.target, bias=head.bias, **shape)
        # With features too: rounded otherwise than the reference's, log-ratios would not begin at 0.
        return logps if values is None else torch.cat([logps[:, None], values[:, 1:]], 1)

    def _distribution(self, hidden: Tensor) -> Distribution:
        """The distributions at `hidden`, to be read after this call."""
        head, shape = self._head(hidden)
        if _is_plain_linear(head):
            # What a sharded head holds is given back at the end of this call.
            weight: Any = head.weight.detach()
            bias: Any = head.bias
            if isinstance(self, FSDPModule):
                weight, bias = weight.clone(), None if bias is None else bias.clone()
            head = partial(nn.functional.linear, weight=weight, bias=bias)
        return Distribution(hidden.detach(), partial(raw_logits, head, scale=shape["scale"], softcap=shape["softcap"]))

    def _head(self, hidden: Tensor | None = None) -> tuple[Any, dict[str, Any]]:
        """The head, and how its output becomes logits; with `hidden` also how many tokens it is called on at a time."""
        head = self._base().get_output_embeddings()
        scale, softcap = _logit_shape(self._base().config)
        shape: dict[str, Any] = {"scale": scale, "softcap": softcap}
        if hidden is not None:
            shape["tile"] = tile_size(self._base().config.get_text_config().vocab_size, hidden)
        return head, shape

    def _plain_outputs(self, examples: list[Example], device: torch.device) -> tuple[Tensor, Tensor]:
        logps, logits = [], []
        for example in examples:
            for ids, prompt in zip(example.ids, example.prompt_lengths, strict=True):
                row = torch.tensor([ids], device=device)
                scored = self.model(input_ids=row).logits[0, prompt - 1 : -1]
                scored = scored.to(torch.promote_types(scored.dtype, torch.float32))
                logps.append(scored.log_softmax(-1).gather(-1, row[0, prompt:, None])[:, 0])
                logits.append(scored)
        return torch.cat(logps), torch.cat(logits).std(-1).mean()

    def _decoder(self) -> nn.Module:
        base = self._base()
        # `get_decoder` goes by the names of attributes, and is wrong for a few architectures.
        for decoder in (base.get_decoder(), base.base_model, getattr(base, "model", None)):
            if isinstance(decoder, PreTrainedModel) and decoder is not base:
                return decoder
        raise ConfigError("The model has no decoder to call.", got=type(base).__name__)


class RewardScorer(_ModelCaller):
    """A model with a head of a few numbers, read at the last token of each response, or at every token.

    Args:
        model: a sequence or token classifier of Hugging Face, or a PEFT model around one.
        normalised: use the rows of the head centred and of unit length; then `overlap` is left behind.
    """

    overlap: Tensor | None = None
    """Scalar with gradient: how far the first two rows of a normalised head point the same way, 0 to 1."""

    def __init__(self, model: nn.Module, *, normalised: bool = False) -> None:
        super().__init__(model)
        self.normalised = normalised

    def forward(self, rows: Rows, *, every_token: bool = False) -> Tensor:
        """Scores of the responses of `rows`; checks itself against the plain model on the first call.

        Args:
            rows: what to score.
            every_token: score every target of `rows`, at the token itself, instead of each response at its last.

        Returns:
            [M], or [N] with `every_token`; for a head of K > 1 numbers [M, K] or [N, K]. float32, or float64 for
            float64 models; with gradient.

        Raises:
            ConfigError: the self-check failed.
        """
        self._verify_once(rows)
        hidden = self._hidden(rows).index_select(0, rows.token_index if every_token else rows.last_index)
        outputs = self._read(hidden, normalised=self.normalised)
        return outputs[:, 0] if outputs.shape[1] == 1 else outputs

    def _outputs(self, rows: Rows) -> Tensor:
        return self._read(self._hidden(rows).index_select(0, rows.last_index), normalised=False)

    def _read(self, hidden: Tensor, *, normalised: bool) -> Tensor:
        """What the head says of hidden states [N, H]: [N, K]."""
        base = self._base()
        head: Any = getattr(base, "score", None) or getattr(base, "classifier", None)
        if head is None:
            raise ConfigError(
                "A reward model is a sequence or token classifier.",
                got=type(base).__name__,
                fix="Load it with AutoModelForSequenceClassification.",
            )
        dtype = next(head.parameters()).dtype
        # Differences of scores are what is learnt: under autocast they would be rounded to 16 bits.
        with torch.autocast(hidden.device.type, enabled=False):
            if normalised:
                weight = normalised_rows(head.weight)
                self.overlap = (weight[0] @ weight[1]).abs() if len(weight) > 1 else None
                scores = nn.functional.linear(hidden.to(weight.dtype), weight)
            else:
                scores = head(hidden.to(dtype))
        return scores.to(torch.promote_types(scores.dtype, torch.float32))

    def _plain_outputs(self, examples: list[Example], device: torch.device) -> tuple[Tensor, Tensor]:
        rows = [torch.tensor([ids], device=device) for example in examples for ids in example.ids]
        logits = [self.model(input_ids=row).logits[0] for row in rows]
        # A token classifier has some at every token.
        scores = torch.stack([values if values.ndim == 1 else values[-1] for values in logits])
        scores = scores.to(torch.promote_types(scores.dtype, torch.float32))
        return scores, scores.abs().mean()

    def _decoder(self) -> nn.Module:
        decoder: nn.Module = self._base().base_model
        return decoder


def normalised_rows(weight: Tensor) -> Tensor:
    """Rows [K, H] with mean 0 and length 1, float32 or better, with gradient (ODIN's projections)."""
    weight = weight.to(torch.promote_types(weight.dtype, torch.float32))
    return nn.functional.normalize(weight - weight.mean(1, keepdim=True), dim=1)


def _checked_as(rows: Rows) -> Layout:
    """The layout that is checked for rows: packed ones are shared ones without prefixes."""
    return Layout.PADDED if rows.segments is None else Layout.SHARED


def _is_plain_linear(head: nn.Module) -> bool:
    """Whether the head is its weight and nothing else: no adapter, quantisation, sharding or hook of its own."""
    return type(head) is nn.Linear and not head._forward_hooks and not head._forward_pre_hooks


def _logit_shape(config: Any) -> tuple[float, float | None]:
    """Factor and bound that an architecture puts on its logits."""
    config = config.get_text_config()
    scale = 1.0
    for name in ("logit_scale", "output_multiplier", "lm_head_multiplier"):
        scale *= getattr(config, name, None) or 1.0
    scaling = getattr(config, "logits_scaling", None) or 1.0
    # The one name with two meanings: Granite divides by it.
    scale = scale * scaling if config.model_type == "hyperclovax" else scale / scaling
    caps = (getattr(config, name, None) for name in ("final_logit_softcapping", "logits_soft_cap"))
    return scale, next((cap for cap in caps if cap), None)


def _probe_examples(rows: Rows, pad_id: int | None) -> list[Example]:
    """Two short examples out of the tokens of `rows`, one of them with two responses."""
    longest = int(rows.position_ids.max()) + 1
    tokens = [token for token in rows.input_ids.flatten()[:_PROBE_TOKENS].tolist() if token != pad_id] or [0]
    tokens = (tokens * 4)[: max(4, min(longest, _PROBE_TOKENS))]
    half, quarter = len(tokens) // 2, len(tokens) // 4
    prompt, first, second = tokens[:half], tokens[half:], tokens[-quarter:][::-1]
    return [
        Example(row=1, ids=[prompt + first, prompt + second], prompt_lengths=[half, half]),
        Example(row=2, ids=[second + first], prompt_lengths=[quarter]),
    ]
