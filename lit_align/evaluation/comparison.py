"""What training changed: two models on the same held-out pairs and prompts, side by side."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from statistics import fmean
from typing import Any, NamedTuple

import torch
from lightning.fabric.utilities import move_data_to_device

from lit_align.core.architectures import resolve_layout
from lit_align.core.batch import DataKind, PairBatch
from lit_align.core.forward import Scorer
from lit_align.core.kinds import pair_up
from lit_align.core.policy import build_policy
from lit_align.core.policy_spec import PolicySpec
from lit_align.core.pretrained import load_tokenizer
from lit_align.data.collate import Collator, Drawn
from lit_align.data.module import PreferenceDataModule
from lit_align.rollouts.hf import Completion, generate

Judge = Callable[[str, str], bool]
"""(prompt, completion) -> whether the completion passes."""

_BATCH = 40


class Measurement(NamedTuple):
    """One model on held-out data."""

    pairs: list[dict[str, float]]
    """For each pair, `chosen_logps` and `rejected_logps`, nats, and `chosen_tokens` and `rejected_tokens`."""
    greedy: list[Completion]
    """For each prompt, the likeliest completion."""
    sampled: list[Completion]
    """For each prompt, the completions that were drawn at temperature 1."""

    @property
    def margins(self) -> list[float]:
        """For each pair, log-probability of the chosen response less that of the rejected one, nats."""
        return [pair["chosen_logps"] - pair["rejected_logps"] for pair in self.pairs]


def measure(
    model: str | Path,
    pairs: str | Path,
    prompts: Sequence[str],
    *,
    cache_dir: str | Path,
    max_new_tokens: int = 48,
    samples: int = 1,
    seed: int = 0,
) -> Measurement:
    """Score held-out pairs and complete held-out prompts.

    Args:
        model: a folder in Hugging Face format, with a tokenizer that has a chat template.
        pairs: a file of preference pairs.
        prompts: what users say.
        cache_dir: where the tokenised pairs are kept.
        max_new_tokens: longest completion, tokens.
        samples: completions of each prompt that are drawn; `compare` wants one.
        seed: of the sampling.
    """
    scorer = Scorer(build_policy(PolicySpec(name=str(model)))).eval()
    tokenizer = load_tokenizer(str(model))
    data = PreferenceDataModule(validation=str(pairs), tokenizer=str(model), cache_dir=str(cache_dir))
    chats = [[{"role": "user", "content": prompt}] for prompt in prompts]
    settings: dict[str, Any] = {"max_new_tokens": max_new_tokens, "batch_size": _BATCH, "seed": seed}
    return Measurement(
        score_pairs(scorer, data),
        greedy=generate(scorer, tokenizer, chats, **settings),
        sampled=generate(scorer, tokenizer, chats, temperature=1.0, samples=samples, **settings),
    )


@torch.no_grad()
def score_pairs(scorer: Scorer, data: PreferenceDataModule, batch_size: int = _BATCH) -> list[dict[str, float]]:
    """Log-probabilities and lengths of the validation pairs, in the order of the data.

    Args:
        scorer: in evaluation mode, on the device that is to compute.
        data: whose validation data hold pairs, or are converted to pairs.
        batch_size: rows of the data at a time.
    """
    examples = data.examples("validation", DataKind.PAIRS)
    collate = Collator(DataKind.PAIRS, resolve_layout("auto", scorer.model.config))
    device = next(scorer.parameters()).device
    records: list[dict[str, float]] = []
    for start in range(0, len(examples), batch_size):
        batch = move_data_to_device(collate(Drawn(examples[start : start + batch_size])), device)
        assert isinstance(batch, PairBatch)
        pairs = pair_up(scorer.sequence_logps(batch.rows), batch)
        columns = {
            "chosen_logps": pairs.chosen,
            "rejected_logps": pairs.rejected,
            "chosen_tokens": pairs.chosen_lengths,
            "rejected_tokens": pairs.rejected_lengths,
        }
        values = zip(*(column.tolist() for column in columns.values()), strict=True)
        records += [dict(zip(columns, pair, strict=True)) for pair in values]
    return records


def compare(
    before: Measurement,
    after: Measurement,
    prompts: Sequence[str],
    *,
    labels: tuple[str, str],
    preferred: Judge,
    right: Judge,
) -> dict[str, Any]:
    """What the report shows about two models.

    Args:
        before: the model that training started from.
        after: the model that was trained.
        prompts: those of the measurements.
        labels: names of the two models.
        preferred: whether a completion shows the preferred behaviour.
        right: whether a completion answers the prompt rightly, in whatever manner.

    Returns:
        A JSON object with `labels`, `headline` (named numbers before and after), `histograms` and `completions`.
    """
    models = (before, after)
    pairs, asked = len(before.pairs), len(prompts)
    return {
        "labels": list(labels),
        "headline": [
            _line(
                "preference accuracy",
                "%",
                [fmean(margin > 0 for margin in model.margins) for model in models],
                f"share of {pairs} held-out pairs whose chosen reply is the more probable one",
            ),
            _line(
                "preference margin",
                "nats",
                [fmean(model.margins) for model in models],
                "log-probability of the chosen reply less that of the rejected one, mean of the held-out pairs",
            ),
            _line(
                "preferred behaviour, greedy",
                "%",
                [share(preferred, prompts, model.greedy) for model in models],
                f"share of the likeliest replies to {asked} held-out prompts that the rule accepts",
            ),
            _line(
                "preferred behaviour, sampled",
                "%",
                [share(preferred, prompts, model.sampled) for model in models],
                "the same for replies drawn at temperature 1",
            ),
            _line(
                "right answers, greedy",
                "%",
                [share(right, prompts, model.greedy) for model in models],
                "share of the likeliest replies that give the right fact, in whatever tone",
            ),
        ],
        "histograms": [
            _histogram("Margins of the held-out pairs", "nats", zip(labels, (m.margins for m in models), strict=True)),
            _histogram(
                "Length of the greedy replies",
                "tokens",
                zip(labels, ([len(c.ids) for c in m.greedy] for m in models), strict=True),
            ),
            _histogram(
                "Length of the replies in the pairs",
                "tokens",
                ((side, [pair[f"{side}_tokens"] for pair in before.pairs]) for side in ("chosen", "rejected")),
            ),
        ],
        "completions": [
            {
                "prompt": prompt,
                "texts": [old.text, new.text],
                "accepted": [accepts(preferred, prompt, old), accepts(preferred, prompt, new)],
            }
            for prompt, old, new in zip(prompts, before.greedy, after.greedy, strict=True)
        ],
    }


def _line(name: str, unit: str, values: Sequence[float], note: str) -> dict[str, Any]:
    return {"name": name, "unit": unit, "before": values[0], "after": values[1], "note": note}


def _histogram(title: str, unit: str, series: Iterable[tuple[str, Sequence[float]]]) -> dict[str, Any]:
    return {"title": title, "unit": unit, "series": {n: [round(v, 4) for v in values] for n, values in series}}


def share(judge: Judge, prompts: Sequence[str], completions: Sequence[Completion]) -> float:
    """Share of completions that pass, each of the prompt in its place; one without an end does not."""
    return fmean(accepts(judge, p, c) for p, c in zip(prompts, completions, strict=True))


def accepts(judge: Judge, prompt: str, completion: Completion) -> bool:
    """A completion that did not come to an end is not accepted, whatever it says."""
    return completion.finished and judge(prompt, completion.text)
