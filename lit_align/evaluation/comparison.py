"""What training changed: two models on the same held-out pairs and prompts, side by side."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from statistics import fmean
from typing import Any, NamedTuple

import torch

from lit_align.core.architectures import resolve_layout
from lit_align.core.batch import DataKind, Example
from lit_align.core.forward import Scorer
from lit_align.core.layout import build_rows
from lit_align.core.policy import build_policy
from lit_align.core.policy_spec import PolicySpec
from lit_align.core.pretrained import load_tokenizer
from lit_align.data.module import PreferenceDataModule
from lit_align.rollouts.hf import Completion, generate

Judge = Callable[[str, str], bool]
"""(prompt, completion) -> whether the completion shows the preferred behaviour."""

_BATCH = 40


class Measurement(NamedTuple):
    """One model on held-out data."""

    chosen: list[float]
    """For each pair, log-probability of the chosen response, nats."""
    rejected: list[float]
    """The same of the rejected response."""
    greedy: list[Completion]
    """For each prompt, the likeliest completion."""
    sampled: list[Completion]
    """For each prompt, a completion drawn at temperature 1."""

    @property
    def margins(self) -> list[float]:
        """For each pair, how much more probable the chosen response is than the rejected one, nats."""
        return [chosen - rejected for chosen, rejected in zip(self.chosen, self.rejected, strict=True)]


def measure(
    model: str | Path,
    pairs: str | Path,
    prompts: Sequence[str],
    *,
    cache_dir: str | Path,
    max_new_tokens: int = 48,
    seed: int = 0,
) -> Measurement:
    """Score held-out pairs and complete held-out prompts.

    Args:
        model: a folder in Hugging Face format, with a tokenizer that has a chat template.
        pairs: a file of preference pairs.
        prompts: what users say.
        cache_dir: where the tokenised pairs are kept.
        max_new_tokens: longest completion, tokens.
        seed: of the sampling.
    """
    scorer = Scorer(build_policy(PolicySpec(name=str(model)))).eval()
    tokenizer = load_tokenizer(str(model))
    data = PreferenceDataModule(validation=str(pairs), tokenizer=str(model), cache_dir=str(cache_dir))
    chosen, rejected = score_pairs(scorer, data.examples("validation", DataKind.PAIRS))
    chats = [[{"role": "user", "content": prompt}] for prompt in prompts]
    settings: dict[str, Any] = {"max_new_tokens": max_new_tokens, "batch_size": _BATCH, "seed": seed}
    return Measurement(
        chosen,
        rejected,
        greedy=generate(scorer, tokenizer, chats, **settings),
        sampled=generate(scorer, tokenizer, chats, temperature=1.0, **settings),
    )


@torch.no_grad()
def score_pairs(scorer: Scorer, examples: Sequence[Example]) -> tuple[list[float], list[float]]:
    """Log-probabilities of the (chosen, rejected) responses of all pairs of the examples, nats."""
    chosen: list[float] = []
    rejected: list[float] = []
    layout = resolve_layout("auto", scorer.model.config)
    for start in range(0, len(examples), _BATCH):
        batch = [examples[index] for index in range(start, min(start + _BATCH, len(examples)))]
        sums = iter(scorer.sequence_logps(build_rows(batch, layout)).sums.tolist())
        for example in batch:
            logps = [next(sums) for _ in example.ids]
            chosen += [logps[better] for better, _ in example.pairs]
            rejected += [logps[worse] for _, worse in example.pairs]
    return chosen, rejected


def compare(
    before: Measurement, after: Measurement, prompts: Sequence[str], judge: Judge, judge_right: Judge
) -> dict[str, Any]:
    """What the report shows about two models.

    Args:
        before: the model that training started from.
        after: the model that was trained.
        prompts: those of the measurements.
        judge: whether a completion shows the preferred behaviour.
        judge_right: whether it answers the prompt rightly, in whatever manner.

    Returns:
        A JSON object with `headline` (named numbers before and after), `margins`, `lengths` and `completions`.
    """
    pairs, count = len(before.chosen), len(prompts)

    def shares(rule: Judge, kind: str) -> dict[str, float]:
        return {side: _share(prompts, getattr(m, kind), rule) for side, m in (("before", before), ("after", after))}

    headline = [
        {
            "name": "preference accuracy",
            "note": f"share of {pairs} held-out pairs whose chosen reply is the more probable one",
            "unit": "%",
            "before": _accuracy(before.margins),
            "after": _accuracy(after.margins),
        },
        {
            "name": "preference margin",
            "note": "mean log-probability of the chosen reply less that of the rejected one, held-out pairs",
            "unit": "nats",
            "before": fmean(before.margins),
            "after": fmean(after.margins),
        },
        {
            "name": "preferred behaviour, greedy",
            "note": f"share of greedy replies to {count} held-out prompts that the rule accepts",
            "unit": "%",
            **shares(judge, "greedy"),
        },
        {
            "name": "preferred behaviour, sampled",
            "note": f"the same for replies drawn at temperature 1, {count} prompts",
            "unit": "%",
            **shares(judge, "sampled"),
        },
        {
            "name": "right answers, greedy",
            "note": "share of greedy replies that give the right fact, in whatever tone",
            "unit": "%",
            **shares(judge_right, "greedy"),
        },
    ]
    return {
        "headline": headline,
        "margins": {"before": before.margins, "after": after.margins},
        "lengths": {side: [len(c.ids) for c in m.greedy] for side, m in (("before", before), ("after", after))},
        "completions": [
            {
                "prompt": prompt,
                "before": old.text,
                "after": new.text,
                "before_preferred": _accepts(judge, prompt, old),
                "after_preferred": _accepts(judge, prompt, new),
            }
            for prompt, old, new in zip(prompts, before.greedy, after.greedy, strict=True)
        ],
    }


def _accuracy(margins: Sequence[float]) -> float:
    return fmean(margin > 0 for margin in margins)


def _share(prompts: Sequence[str], completions: Sequence[Completion], rule: Judge) -> float:
    return fmean(_accepts(rule, p, c) for p, c in zip(prompts, completions, strict=True))


def _accepts(rule: Judge, prompt: str, completion: Completion) -> bool:
    """A completion that did not come to an end is not accepted, whatever it says."""
    return completion.finished and rule(prompt, completion.text)
