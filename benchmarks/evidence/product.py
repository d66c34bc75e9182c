"""The product's loss code on a world's log-probabilities: no loss of a method is written again in this folder."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor

import lit_align
from evidence.worlds.base import World
from evidence.worlds.data import Data, Lists, Pairs, Texts, parts, take
from lit_align.core.batch import Counts
from lit_align.core.kinds import LanguageModelModule, as_terms
from lit_align.core.outputs import ListLogps, PairLogps, Per, SequenceLogps, Term, reduce_terms

Inputs = PairLogps | SequenceLogps | ListLogps


class Method(NamedTuple):
    """A method of the product and its settings."""

    name: str
    """Class name in `lit_align`."""
    kwargs: dict[str, Any]
    label: str
    """How tables and figures call it."""

    def exists(self) -> bool:
        """Whether the product has the class."""
        return getattr(lit_align, self.name, None) is not None

    def build(self) -> Any:
        """The method, without a model behind it."""
        return getattr(lit_align, self.name)(policy="unused", **self.kwargs)


def method(name: str, label: str | None = None, **kwargs: Any) -> Method:
    """A method of the product.

    Args:
        name: class name in `lit_align`.
        label: what to call it; the class name where None.
        kwargs: its settings.
    """
    return Method(name, kwargs, label or name)


COUNTED = frozenset({Per.EXAMPLES, Per.TOKENS, Per.UNDESIRABLE, Per.DESIRABLE_TOKENS, Per.TARGET_TOKENS})
"""Denominators that `reduced` knows; a new one of the product must not be taken for 0."""


def _tokens(policy: Inputs) -> tuple[Tensor, Tensor]:
    """Numbers of tokens that are imitated, and of texts to stay close to, each [B]."""
    if isinstance(policy, PairLogps):
        close_to = policy.chosen_lengths if policy.target_lengths is None else policy.target_lengths
        return policy.chosen_lengths, close_to
    tokens = policy.lengths[:, 0] if isinstance(policy, ListLogps) else policy.lengths
    return tokens, tokens


def reduced(
    terms: dict[str, Term],
    tokens: Tensor,
    weights: Tensor | None = None,
    label: Tensor | None = None,
    close_to: Tensor | None = None,
) -> Tensor:
    """A batch's loss, by the product's own reduction; scalar.

    Args:
        terms: what a method returned.
        tokens: [B], denominators of terms per token.
        weights: [B] probabilities of the examples, for means that are exact; None for a plain mean.
        label: [B] bool, of labelled data.
        close_to: [B], tokens of texts to stay close to; `tokens` where None.
    """
    assert all(term.per in COUNTED for term in terms.values()), f"an unknown denominator among {terms}"
    scale = torch.ones_like(tokens) if weights is None else weights * len(tokens)
    if weights is not None:
        terms = {name: term._replace(values=term.values * scale) for name, term in terms.items()}
    targets = tokens if close_to is None else close_to
    counts = Counts(len(tokens), float((tokens * scale).sum()), target_tokens=float((targets * scale).sum()))
    if label is not None:
        desirable = float((tokens * scale)[label].sum())
        counts = counts._replace(undesirable=float(scale[~label].sum()), desirable_tokens=desirable)
    return reduce_terms(terms, counts)


class Objective:
    """The loss of a method on a world's data, for all seeds at once.

    A method whose losses depend on the other examples of the batch, or which keeps statistics, is called seed by seed
    with a module for each; all others are called once with the examples of all seeds. Which it is, is found by trying.

    Args:
        world: where log-probabilities come from.
        method: method and settings.
        data: examples of all seeds.
        reference: parameters of the reference; the world's start where None.
        modules: one per seed, to go on with the statistics of another objective; new ones where None.
    """

    def __init__(
        self,
        world: World,
        method: Method,
        data: Data,
        reference: Tensor | None = None,
        modules: list[LanguageModelModule] | None = None,
    ) -> None:
        self.world, self.method = world, method
        self.slices = parts(data, world.seeds)
        rows = torch.cat([torch.arange(1, where.stop - where.start + 1) for where in self.slices])
        self.data = data = data._replace(facts={"source_rows": rows, **data.facts})
        self.modules = modules or [method.build() for _ in range(world.seeds)]
        self.reference_theta = world.start() if reference is None else reference
        self.pieces = [take(data, where) for where in self.slices]
        self.coupled = self._is_coupled()

    @property
    def reference_theta(self) -> Tensor:
        """Parameters of the reference."""
        return self._reference_theta

    @reference_theta.setter
    def reference_theta(self, theta: Tensor) -> None:
        self._reference_theta = theta.detach().clone()
        with torch.no_grad():
            self.reference = self.world.behind(self._reference_theta)
            inputs = self._inputs(self.reference)
        if not self.modules[0].needs_reference:
            inputs = _without_reference(inputs)
        self.reference_inputs = inputs

    def __call__(self, theta: Tensor) -> Tensor:
        """Losses [S] of the seeds, with gradient."""
        return self.of_state(self.world.state(theta))

    def of_state(self, state: Tensor) -> Tensor:
        """The same, of a policy."""
        policy, reference, facts = self._inputs(state), self.reference_inputs, self._facts(state)
        together = None if self.coupled else self._terms(self.modules[0], state, policy, reference, self.data, facts)
        losses = []
        tokens, close_to = _tokens(policy)
        for where, module, piece in zip(self.slices, self.modules, self.pieces, strict=True):
            if together is None:
                own, behind = _rows(policy, where), _rows(reference, where)
                terms = self._terms(module, state, own, behind, piece, _sliced(facts, where))
            else:
                terms = {name: term._replace(values=term.values[where]) for name, term in together.items()}
            label = getattr(piece, "label", None)
            losses.append(reduced(terms, tokens[where], piece.weights, label, close_to[where]))
        return torch.stack(losses)

    def _inputs(self, state: Tensor) -> Inputs:
        return self.world.inputs(state, self.data, public=getattr(self.modules[0], "needs_public", False))

    @torch.no_grad()
    def per_example(self, theta: Tensor) -> list[Tensor]:
        """For each seed, the losses [B] of its examples as a validation computes them."""
        state = self.world.state(theta)
        policy, facts = self._inputs(state), self._facts(state)
        values = []
        for where, module, piece in zip(self.slices, self.modules, self.pieces, strict=True):
            module.eval()
            own, behind = _rows(policy, where), _rows(self.reference_inputs, where)
            terms = self._terms(module, state, own, behind, piece, _sliced(facts, where))
            module.train()
            values.append(torch.stack([term.values for term in terms.values()]).sum(0))
        return values

    def _facts(self, state: Tensor) -> dict[str, Any]:
        """What the method is given besides log-probabilities, for all examples."""
        first = self.modules[0]
        facts: dict[str, Any] = {name: self.data.facts[name] for name in first.reads}
        for name, feature in first.token_features.items():
            facts[name] = self.world.feature(feature, state, self.reference, self.data)
        return facts

    def _terms(
        self,
        module: LanguageModelModule,
        state: Tensor,
        policy: Inputs,
        reference: Inputs,
        data: Data,
        facts: dict[str, Any],
    ) -> dict[str, Term]:
        """The terms of a method's loss on `data`."""
        if isinstance(data, Texts):
            return as_terms(module.losses(policy, **facts))
        if isinstance(data, Pairs):
            return as_terms(module.losses(policy, reference, **facts))
        if isinstance(data, Lists):
            return as_terms(module.losses(policy, reference, data.scores, **facts))
        if data.label is None:
            return as_terms(module.losses(policy, reference, data.score, **facts))
        kl = self.world.mismatched(state, self.reference, data) if module.needs_kl else torch.zeros(())
        return as_terms(module.losses(policy, reference, data.label, kl, **facts))

    def _is_coupled(self) -> bool:
        trial = self.method.build()
        if len(self.slices) == 1 or trial.needs_kl:
            return len(self.slices) > 1
        before = [buffer.clone() for buffer in trial.buffers()]
        # Anywhere but at the start, where policy and reference agree and every loss is the same.
        start = self.world.start()
        noise = torch.randn(start.shape, generator=torch.Generator().manual_seed(0), dtype=start.dtype)
        with torch.no_grad():
            state = self.world.state(start + 0.3 * noise)
            policy, reference, facts = self._inputs(state), self.reference_inputs, self._facts(state)
            whole = self._terms(trial, state, policy, reference, self.data, facts)
            if not all(map(_same, before, trial.buffers())):
                return True
            for where, piece in zip(self.slices, self.pieces, strict=True):
                own, behind = _rows(policy, where), _rows(reference, where)
                for name, term in self._terms(trial, state, own, behind, piece, _sliced(facts, where)).items():
                    values = whole[name].values
                    if values.shape != self.data.seed.shape or not torch.allclose(values[where], term.values):
                        return True
        return False


class Minibatches:
    """The same on one part of the examples after the other, as a training loop without shuffling takes them.

    Args:
        world: where log-probabilities come from.
        method: method and settings.
        data: examples of all seeds.
        number: parts that each seed's examples are dealt into.
    """

    def __init__(self, world: World, method: Method, data: Data, number: int) -> None:
        place = torch.cat([torch.arange(where.stop - where.start) for where in parts(data, world.seeds)])
        self.objectives: list[Objective] = []
        for part in range(number):
            modules = self.objectives[0].modules if self.objectives else None
            self.objectives.append(Objective(world, method, take(data, place % number == part), modules=modules))
        self.step = 0

    def __call__(self, theta: Tensor) -> Tensor:
        """Losses [S] of the next part."""
        self.step += 1
        return self.objectives[(self.step - 1) % len(self.objectives)](theta)


def _same(one: Tensor, two: Tensor) -> bool:
    return torch.allclose(one, two, rtol=0, atol=0, equal_nan=True)


def _sliced(facts: dict[str, Any], where: slice) -> dict[str, Any]:
    """What belongs to the examples `where`."""
    return {name: value[where] if isinstance(value, Tensor) else _rows(value, where) for name, value in facts.items()}


def _rows(inputs: Any, where: slice) -> Any:
    """The examples `where`."""
    return inputs._make(None if value is None else value[where] for value in inputs)


def _without_reference(inputs: Inputs) -> Inputs:
    """What a method without a reference gets for one: zeros, as from the core."""
    return inputs._make(
        value if value is None or "lengths" in name or name == "mask" else torch.zeros_like(value)
        for name, value in zip(inputs._fields, inputs, strict=True)
    )
