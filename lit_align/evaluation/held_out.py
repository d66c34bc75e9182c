"""One policy on held-out data, for `lit-align compare`: how likely its pairs are, and how long its replies get."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from lightning.pytorch.plugins import Precision

from lit_align.core.batch import DataKind, Example
from lit_align.core.forward import Scorer
from lit_align.data.module import PreferenceDataModule
from lit_align.evaluation.comparison import score_pairs
from lit_align.rollouts.hf import generate

PAIR_COLUMNS = ("chosen_logps", "rejected_logps", "chosen_tokens", "rejected_tokens")


class Asking(NamedTuple):
    """How replies are asked for."""

    prompts: int
    """How many different held-out prompts, the first ones."""
    max_new_tokens: int
    temperature: float
    """0 takes the likeliest token each time."""
    seed: int = 0
    """Of the sampling; the same for every policy."""


def measure_policy(
    scorer: Scorer, data: PreferenceDataModule, asking: Asking, precision: Precision, batch_size: int
) -> dict[str, Any]:
    """Score the validation pairs and complete their prompts.

    Args:
        scorer: the policy, on the device that is to compute.
        data: whose validation data hold pairs, or are converted to pairs.
        asking: how replies are asked for.
        precision: what training computed in; pairs are scored in the same.
        batch_size: rows, and prompts, at a time.

    Returns:
        A JSON object: `pairs` with a list for each of `PAIR_COLUMNS` (nats and tokens), `replies` (prompt, text,
        tokens, finished), and `left_out`, how many prompts leave no room for a reply.
    """
    scorer.eval()
    with precision.forward_context():
        records = score_pairs(scorer, data, batch_size)
    model: Any = scorer.model
    positions = getattr(model.config.get_text_config(), "max_position_embeddings", None)
    room = None if positions is None else positions - asking.max_new_tokens
    prompts, left_out = first_prompts(data.examples("validation", DataKind.PAIRS), asking.prompts, room)
    completions = generate(
        scorer,
        data.tokenizer,
        prompts,
        max_new_tokens=asking.max_new_tokens,
        temperature=asking.temperature,
        seed=asking.seed,
        batch_size=batch_size,
    )
    return {
        "pairs": {name: [record[name] for record in records] for name in PAIR_COLUMNS},
        "replies": [
            {
                "prompt": data.tokenizer.decode(completion.prompt),
                "text": completion.text,
                "tokens": len(completion.ids),
                "finished": completion.finished,
            }
            for completion in completions
        ],
        "left_out": left_out,
    }


def first_prompts(examples: Sequence[Example], count: int, room: int | None) -> tuple[list[list[int]], int]:
    """Token ids of the first different prompts, and how many were passed over since they are too long.

    Args:
        examples: whose prompts.
        count: how many are wanted.
        room: most tokens of a prompt; None: any number.
    """
    found: dict[tuple[int, ...], None] = {}
    long: set[tuple[int, ...]] = set()
    for example in examples:
        if len(found) == count:
            break
        prompt = tuple(example.ids[0][: example.prompt_lengths[0]])
        if not prompt:
            continue
        if room is not None and len(prompt) > room:
            long.add(prompt)
        else:
            found[prompt] = None
    return [list(prompt) for prompt in found], len(long)


# -------------------------------------------------------------------- what is told of a policy


class Metric(NamedTuple):
    """A number of the table."""

    key: str
    title: str
    unit: str
    """`%` for shares."""
    of: str
    """What it is a mean of: pairs, prompts, or `run` for a number of the whole run."""
    better: str
    """high or low, where one of them is what anybody wants."""
    note: str


METRICS = (
    Metric(
        "accuracy", "accuracy", "%", "pairs", "high",
        "share of held-out pairs whose chosen response is the likelier one",
    ),
    Metric(
        "accuracy_per_token", "accuracy per token", "%", "pairs", "high",
        "the same by the mean log-probability per token, so that length does not decide",
    ),
    Metric(
        "reward_accuracy", "reward accuracy", "%", "pairs", "high",
        "share of held-out pairs whose chosen response gained more log-probability over the initial policy than the "
        "rejected one: what the implicit reward prefers, whatever a method's beta",
    ),
    Metric(
        "reward_accuracy_per_token", "reward accuracy per token", "%", "pairs", "high",
        "the same, each gain divided by the response's length",
    ),
    Metric(
        "margin", "margin", "nats", "pairs", "",
        "gain of the chosen response less that of the rejected one; no goal in itself",
    ),
    Metric(
        "chosen_gain", "chosen gain", "nats", "pairs", "high",
        "change of the chosen response's log-probability against the initial policy; below 0 it was displaced",
    ),
    Metric(
        "rejected_gain", "rejected gain", "nats", "pairs", "",
        "the same of the rejected response",
    ),
    Metric(
        "chosen_fell", "chosen fell", "%", "pairs", "low",
        "share of held-out pairs whose chosen response is less likely than under the initial policy",
    ),
    Metric(
        "reply_tokens", "reply length", "tokens", "prompts", "",
        "mean length of the replies to held-out prompts",
    ),
    Metric(
        "length_drift", "length drift", "tokens", "prompts", "",
        "by how much replies are longer than the initial policy's to the same prompts",
    ),
    Metric(
        "unfinished", "unfinished", "%", "prompts", "low",
        "share of replies that did not come to an end",
    ),
    Metric("seconds", "training time", "s", "run", "low", "of training, without validation and start-up"),
    Metric("tokens_per_second", "speed", "tokens/s", "run", "high", "tokens of prompts and responses trained on"),
    Metric("peak_memory", "peak memory", "MiB", "run", "low", "the most that training took at once"),
)  # fmt: skip
"""All numbers of the table, in its order."""


def columns_of(after: Mapping[str, Any], before: Mapping[str, Any]) -> dict[str, list[float]]:
    """For every metric of pairs and prompts, its value for each of them.

    Args:
        after: what `measure_policy` says of a trained policy.
        before: what it says of the initial policy.
    """
    new, old = after["pairs"], before["pairs"]
    lengths = {side: new[f"{side}_tokens"] for side in ("chosen", "rejected")}
    logps = {side: new[f"{side}_logps"] for side in lengths}
    gains = {side: _minus(logps[side], old[f"{side}_logps"]) for side in lengths}
    per_token, gains_per_token = (
        {side: [value / max(1, length) for value, length in zip(of[side], lengths[side], strict=True)] for side in of}
        for of in (logps, gains)
    )
    replies = [float(reply["tokens"]) for reply in after["replies"]]
    return {
        "accuracy": _wins(logps),
        "accuracy_per_token": _wins(per_token),
        "reward_accuracy": _wins(gains),
        "reward_accuracy_per_token": _wins(gains_per_token),
        "margin": _minus(gains["chosen"], gains["rejected"]),
        "chosen_gain": gains["chosen"],
        "rejected_gain": gains["rejected"],
        "chosen_fell": [float(gain < 0) for gain in gains["chosen"]],
        "reply_tokens": replies,
        "length_drift": _minus(replies, [float(reply["tokens"]) for reply in before["replies"]]),
        "unfinished": [float(not reply["finished"]) for reply in after["replies"]],
    }


OF_ANY_POLICY = ("accuracy", "accuracy_per_token", "reply_tokens", "unfinished")
"""Metrics that do not compare with the initial policy."""


def _wins(sides: Mapping[str, Sequence[float]]) -> list[float]:
    return [float(chosen > rejected) for chosen, rejected in zip(sides["chosen"], sides["rejected"], strict=True)]


def _minus(values: Sequence[float], others: Sequence[float]) -> list[float]:
    return [value - other for value, other in zip(values, others, strict=True)]
