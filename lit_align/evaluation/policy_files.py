"""What `lit-align evaluate policies` makes: completions of each model, and what each judge says of them."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from itertools import combinations
from pathlib import Path
from typing import Any, NamedTuple

from lit_align.core.batch import DataKind
from lit_align.core.errors import ConfigError, DataError
from lit_align.data.canonical import Dropped, Rules
from lit_align.data.readers import peek, read_rows
from lit_align.data.schema import normalise, recognise
from lit_align.data.text_settings import TextSettings
from lit_align.evaluation.compare_data import policy_fingerprint, write_whole
from lit_align.evaluation.kept_files import Record, digest, digest_of, keep, with_fingerprints
from lit_align.evaluation.score_files import Scored, read_scores
from lit_align.judges.base import Judge, PointwiseJudge
from lit_align.rollouts.engine import Prompt
from lit_align.rollouts.hf import encode_prompt
from lit_align.rollouts.hf_engine import HFEngine

_CHUNK = 32


class Asked(NamedTuple):
    """A prompt of the data."""

    id: str
    row: int
    prompt: Prompt
    columns: dict[str, Any]
    """All columns of its row, for judges that compare with them."""


class Prompts(NamedTuple):
    """The prompts of a file, and what was left out."""

    asked: list[Asked]
    left_out: Counter[str]


class Sampling(NamedTuple):
    """How completions are asked for; see `rollouts.hf.generate`."""

    max_new_tokens: int = 256
    temperature: float = 0.0
    top_p: float = 1.0
    seed: int = 0
    stop: tuple[str, ...] = ()
    batch_size: int = 8


class Verdicts(NamedTuple):
    """What one judge says of all models."""

    scores: dict[str, list[Scored]]
    """By model; empty for a judge that only compares."""
    compared: dict[tuple[str, str], list[Record]]
    """By pair of models: records with `probability`, that the first is better, and `reason`; empty for one that
    scores."""
    facts: dict[str, Any]
    """What the judge says of its own ways."""


def read_prompts(
    source: str, *, limit: int | None = None, as_chat: bool = False, system_prompt: str | None = None
) -> Prompts:
    """Read prompts from data of any kind that has them.

    Args:
        source: a file, a folder, or a name on the hub.
        limit: how many, the first ones; None: all.
        as_chat: make a user's turn of a plain prompt.
        system_prompt: put before conversations that have none.

    Raises:
        DataError: the data cannot be read, or hold no prompt.
    """
    rows = read_rows(source, streaming=True)
    columns, first = peek(rows)
    fmt = recognise(columns, first, file=source, wanted=DataKind.PROMPTS)
    asked: list[Asked] = []
    seen: set[str] = set()
    left_out: Counter[str] = Counter()
    for raw in rows:
        if limit is not None and len(asked) == limit:
            break
        row = normalise(raw, fmt, None, source, rules=Rules(on_bad_row="error", on_no_preference="drop"))
        if isinstance(row, Dropped):
            left_out[row.reason] += 1
            continue
        if (words := digest_of(row.prompt)) in seen:
            left_out["the same prompt once more"] += 1
            continue
        seen.add(words)
        own = {name: value for name, value in raw.items() if not name.startswith("__")}
        asked.append(Asked(str(row.row), row.row, _prompt(row.prompt, as_chat, system_prompt), own))
    if len({one.id for one in asked}) < len(asked):
        # Rows of several files.
        asked = [one._replace(id=str(number)) for number, one in enumerate(asked, start=1)]
    if not asked or not all(one.prompt for one in asked):
        raise DataError("there are no prompts", file=source, value=sorted(columns), fix="give rows with a prompt")
    return Prompts(asked, left_out)


def _prompt(prompt: Any, as_chat: bool, system_prompt: str | None) -> Prompt:
    if isinstance(prompt, str) and as_chat:
        prompt = [{"role": "user", "content": prompt}]
    if isinstance(prompt, str) or system_prompt is None or prompt[0]["role"] == "system":
        return prompt
    return [{"role": "system", "content": system_prompt}, *prompt]


# -------------------------------------------------------------------- completions


def with_room(prompts: Prompts, engines: Mapping[str, HFEngine], max_new_tokens: int) -> Prompts:
    """Leave out prompts that some model has no room for, so that all models answer the same ones.

    Raises:
        DataError: none is left.
    """
    limits = {name: _positions(engine) for name, engine in engines.items()}
    kept: list[Asked] = []
    left_out = Counter(prompts.left_out)
    for one in prompts.asked:
        tight = [
            name
            for name, engine in engines.items()
            if (limit := limits[name]) is not None
            and len(encode_prompt(engine.tokenizer, engine.as_trained(one.prompt))) + max_new_tokens > limit
        ]
        if tight:
            left_out[f"too long for {tight[0]}"] += 1
        else:
            kept.append(one)
    if not kept:
        fix = "lower --max_new_tokens, or shorten the prompts"
        raise DataError("no prompt leaves room for a completion", value=dict(left_out), fix=fix)
    return Prompts(kept, left_out)


def _positions(engine: HFEngine) -> int | None:
    from lit_align.core.pretrained import adapter_base, load_config

    base = adapter_base(engine.name)
    config = load_config(base[0] if base else engine.name)
    return getattr(config.get_text_config(), "max_position_embeddings", None)


def complete(
    name: str, engine: HFEngine, prompts: Sequence[Asked], sampling: Sampling, out: Path, overwrite: bool
) -> list[Record]:
    """The completions of a model, in `generations/<name>.jsonl`; made where they are not there yet."""
    key = {
        "model": policy_fingerprint(engine.name),
        "prompts": digest_of([[one.id, one.prompt] for one in prompts]),
        "sampling": sampling._asdict(),
        "dtype": engine.spec.dtype,
        "chat_template": with_fingerprints(engine.chat_template),
        **_text(engine),
    }

    def make(places: Sequence[int]) -> list[Record]:
        chosen = [prompts[place] for place in places]
        completions = engine.generate(
            [engine.as_trained(one.prompt) for one in chosen],
            max_new_tokens=sampling.max_new_tokens,
            temperature=sampling.temperature,
            top_p=sampling.top_p,
            # As `lit-align generate` draws: the row decides, not the company.
            seed=[sampling.seed * 1_000_003 + one.row for one in chosen],
            stop=sampling.stop,
        )
        print(f"{name}: {places[-1] + 1} of {len(prompts)} prompts", flush=True)
        return [
            {
                "id": one.id,
                "row": one.row,
                "model": name,
                "prompt": one.prompt,
                "response": completion.text,
                "len_tokens": len(completion.ids),
                "len_chars": len(completion.text),
                "finished": completion.finished,
            }
            for one, completion in zip(chosen, completions, strict=True)
        ]

    chunk = max(_CHUNK, sampling.batch_size)
    return keep(out / "generations" / f"{name}.jsonl", key, len(prompts), make, chunk=chunk, overwrite=overwrite)


def _text(engine: HFEngine) -> Record:
    """How prompts are written for a model, where that is not as they are."""
    settings, usual = vars(engine.text_settings), vars(TextSettings())
    own = {name: settings[name] for name in ("separator", "as_chat", "system_prompt") if settings[name] != usual[name]}
    return {"text": own} if own else {}


# -------------------------------------------------------------------- judgements


def judge_all(
    name: str,
    config: Mapping[str, Any],
    load: Callable[[], Judge],
    prompts: Sequence[Asked],
    generations: Mapping[str, Sequence[Record]],
    out: Path,
    overwrite: bool,
) -> Verdicts:
    """What a judge says: `scores/<judge>/<model>.jsonl`, or `comparisons/<judge>/<one>_vs_<other>.jsonl`.

    Args:
        name: the judge's.
        config: its class and arguments; files and folders in it count with their content.
        load: makes the judge.
        prompts: of the completions.
        generations: completions by model.
        out: folder of the evaluation.
        overwrite: judge anew where something has changed.

    Raises:
        ConfigError: the judge looks at more than one item, or the folder holds something else.
    """
    judge = load()
    if not judge.is_divisible():
        fix = "name a judge that looks at one completion, or at two; LengthNormalised needs a minimum"
        raise ConfigError("what this judge says depends on what else it is asked", got=type(judge).__name__, fix=fix)
    columns = sorted({column for one in prompts for column in one.columns})
    own = {"judge": with_fingerprints(config), "columns": digest_of([one.columns for one in prompts])}
    scores: dict[str, list[Scored]] = {}
    compared: dict[tuple[str, str], list[Record]] = {}
    if isinstance(judge, PointwiseJudge):
        for model, records in generations.items():
            path = out / "scores" / name / f"{model}.jsonl"
            key = own | {"completions": digest(out / "generations" / f"{model}.jsonl")}
            make = _scoring(judge, name, prompts, records, columns)
            keep(path, key, len(records), make, chunk=_CHUNK, overwrite=overwrite)
            scores[model] = read_scores(path, name)
    else:
        for one, other in combinations(generations, 2):
            path = out / "comparisons" / name / f"{one}_vs_{other}.jsonl"
            files = [digest(out / "generations" / f"{model}.jsonl") for model in (one, other)]
            make = _comparing(judge, prompts, generations[one], generations[other], columns)
            compared[one, other] = keep(
                path, own | {"completions": files}, len(prompts), make, chunk=_CHUNK, overwrite=overwrite
            )
    facts_file = out / ("scores" if scores else "comparisons") / name / "facts.json"
    counts = getattr(judge, "counts", None)
    if counts is not None and counts.asked:
        write_whole(facts_file, json.dumps({**judge.facts(), "counts": counts.to_dict()}, indent=1, default=str))
    judge.release()
    facts = json.loads(facts_file.read_text(encoding="utf-8")) if facts_file.is_file() else {}
    return Verdicts(scores, compared, facts)


def _scoring(
    judge: PointwiseJudge, name: str, prompts: Sequence[Asked], records: Sequence[Record], columns: Sequence[str]
) -> Callable[[Sequence[int]], list[Record]]:
    def make(places: Sequence[int]) -> list[Record]:
        judged = judge.score(
            [prompts[place].prompt for place in places],
            [records[place]["response"] for place in places],
            **_columns(prompts, places, columns),
        )
        print(f"{name}: {places[-1] + 1} of {len(records)} completions of {records[0]['model']}", flush=True)
        return [
            Scored(
                records[place]["id"],
                "generated",
                records[place]["model"],
                name,
                records[place]["prompt"],
                records[place]["response"],
                score,
                records[place]["len_tokens"],
                records[place]["len_chars"],
                {"reason": reason} if reason else {},
            )._asdict()
            for place, (score, reason) in zip(places, judged, strict=True)
        ]

    return make


def _comparing(
    judge: Judge, prompts: Sequence[Asked], ones: Sequence[Record], others: Sequence[Record], columns: Sequence[str]
) -> Callable[[Sequence[int]], list[Record]]:
    def make(places: Sequence[int]) -> list[Record]:
        verdicts = judge.compare(
            [prompts[place].prompt for place in places],
            [ones[place]["response"] for place in places],
            [others[place]["response"] for place in places],
            **_columns(prompts, places, columns),
        )
        return [
            {
                "id": prompts[place].id,
                "first": ones[place]["model"],
                "second": others[place]["model"],
                "probability": verdict.probability,
                "reason": verdict.reason,
            }
            for place, verdict in zip(places, verdicts, strict=True)
        ]

    return make


def _columns(prompts: Sequence[Asked], places: Sequence[int], names: Sequence[str]) -> dict[str, list[Any]]:
    """Further columns; `prompts` and the like are the judge's own arguments."""
    taken = ("prompts", "completions", "firsts", "seconds", "self")
    return {name: [prompts[place].columns.get(name) for place in places] for name in names if name not in taken}
