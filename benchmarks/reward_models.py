"""Reward models on real preferences: do they beat chance, and a rule that sees nothing but lengths, on held-out pairs?

python benchmarks/reward_models.py --policy FOLDER --ranked RANKED --pairs PAIRS [--out FOLDER] [--results FILE]

RANKED: rows with prompt, responses, scores, models (AlpacaEval); PAIRS: rows with chosen and rejected transcripts (HH).
Five models are trained on RANKED's prompts, K-wise, and five on PAIRS, each on four fifths and tested on the fifth that
it has not seen, so that every pair is judged once. Before that each learns to write the better responses of the same
four fifths: it was pretrained on stories for children. Everything is done by `lit-align fit`, `export`, `score` and
`evaluate`; this script splits the rows and puts the numbers together. Killed, the same command goes on.
"""

from __future__ import annotations

import argparse
import gzip
import hashlib
import json
import shutil
import subprocess
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from lit_align.evaluation.intervals import Interval, over_clusters
from lit_align.evaluation.reward_metrics import spearman
from lit_align.evaluation.score_files import Pair, pair_up, read_scores

CONFIGS = Path(__file__).resolve().parent.parent / "configs"
FOLDS = 5
CONTEXT = 2048
"""Tokens; answers of AlpacaEval are longer than the 512 that the model was pretrained with. A reward model that sees
1,024 of them cannot tell which of two long answers is the longer one."""
RANKED = ("--data.max_length", "1024", "--data.max_prompt_length", "128", "--data.batch_size", "8")
WHOLE = ("--data.max_length", str(CONTEXT), "--model.layout", "packed")
"""For lists of responses of very unequal lengths, packed rows are the fastest on a CPU."""
PAIRS = ("--data.max_length", "320", "--data.max_prompt_length", "128", "--data.batch_size", "16")
WRITING = ("--model.learning_rate", "2e-3", "--trainer.max_epochs", "2")
SCORING = {
    "kwise_reward": ("--model.learning_rate", "1e-3", "--model.warmup_ratio", "0.05", "--trainer.max_epochs", "2"),
    "bradley_terry": ("--model.learning_rate", "3e-4", "--trainer.max_epochs", "2"),
}
LIKE = 0.2
"""Responses are of like length if they differ by at most this share of their mean."""
COMMON = ("--data.validation", "null", "--data.val_split", "0", "--data.chat_template", "transcript",
          # Every pair is judged, also those that are longer than the tiny model's context.
          "--data.on_overlong", "truncate", "--trainer.accumulate_grad_batches", "1")  # fmt: skip

Row = dict[str, Any]


def main() -> None:
    """Train, score, and write what came of it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--policy", type=Path, required=True)
    parser.add_argument("--ranked", type=Path, required=True)
    parser.add_argument("--pairs", type=Path, required=True)
    parser.add_argument("--only", choices=("ranked", "pairs"), help="keep the others' results")
    parser.add_argument("--out", type=Path, default=Path("runs/reward_models"))
    parser.add_argument("--results", type=Path, default=Path("benchmarks/results/reward_models.json"))
    given = parser.parse_args()
    results = json.loads(given.results.read_text(encoding="utf-8")) if given.results.is_file() else {}
    for kind, measure in {"ranked": ranked, "pairs": pairs}.items():
        if given.only in (None, kind):
            results[kind] = measure(given)
    given.results.write_text(json.dumps(results, indent=2) + "\n", encoding="utf-8")
    given.results.with_suffix(".md").write_text(page(results), encoding="utf-8")
    print(page(results))


# -------------------------------------------------------------------- the two kinds of data


def ranked(given: argparse.Namespace) -> Row:
    """K-wise reward models on lists of scored answers, one for each fold; a ranking of the models that wrote them."""
    out, every, untrained = given.out / "ranked", [], []
    policy = longer_context(given.policy, out / "policy", CONTEXT)
    for number, (train, held_out) in enumerate(folds(given.ranked, out, lambda row: row["prompt"])):
        fold, settings = out / f"fold={number}", [*COMMON, *RANKED]
        writer = able_to_write(policy, train, "ranked_to_best", fold / "writer", settings)
        settings += WHOLE
        scores = scored("kwise_reward", writer, train, held_out, fold / "trained", settings)
        every.append(margins(scores, held_out))
        before = scored("bradley_terry", policy, None, held_out, fold / "untrained", settings)
        untrained.append(margins(before, held_out))
        if number == 0:
            ours, judge = rankings(scores, held_out, out)
    score, length, prompts = joined(every)
    both = np.concatenate([together(*fold) for fold in every])
    like = np.abs(length) <= np.log((1 + LIKE / 2) / (1 - LIKE / 2))
    return against_length(score, length, prompts) | {
        "untrained": against_length(*joined(untrained))["accuracy"],
        "like length": against_length(score[like], length[like], prompts[like]),
        "with length": against_length(both, length, prompts),
        # On which the settings were not chosen.
        "all folds but the first": against_length(*joined(every[1:])),
        "gain by fold": [against_length(*fold)["gain"] for fold in every],
        "ranking": ours,
        "ranking_of_the_data": judge,
        "spearman": spearman(*(np.array([r[name] for name in sorted(ours)]) for r in (ours, judge))),
    }


Margins = tuple[np.ndarray, np.ndarray, np.ndarray]
"""Of pairs: chosen minus rejected score, chosen minus rejected log of characters, the prompt."""


def joined(folds: Sequence[Margins]) -> Margins:
    """The pairs of all folds."""
    score, length, prompts = (np.concatenate(found) for found in zip(*folds, strict=True))
    return score, length, prompts


def margins(scores: Path, held_out: Path) -> Margins:
    """The pairs of a fold, scored."""
    rows = read(held_out)
    found = pair_up(read_scores(scores)).pairs

    def log_length(record: Any) -> float:
        return float(np.log1p(len(rows[record.meta["row"] - 1]["responses"][record.meta["response"]])))

    return (
        np.array([_known(pair.chosen.score) - _known(pair.rejected.score) for pair in found]),
        np.array([log_length(pair.chosen) - log_length(pair.rejected) for pair in found]),
        np.array([rows[pair.chosen.meta["row"] - 1]["prompt"] for pair in found]),
    )


def together(score: np.ndarray, length: np.ndarray, prompts: np.ndarray) -> np.ndarray:
    """Margins of a logistic model of score and length, fitted on the other half of the prompts."""
    features = np.stack([score, length], axis=1)
    half = np.unique(prompts, return_inverse=True)[1] % 2
    margins = np.zeros(len(score))
    for own in (0, 1):
        scale = features[half != own].std(axis=0)
        weights = fitted(features[half != own] / scale)
        margins[half == own] = features[half == own] / scale @ weights
    return margins


def fitted(features: np.ndarray, steps: int = 50) -> np.ndarray:
    """Weights under which the margins of pairs are likeliest, by Newton's method."""
    weights = np.zeros(features.shape[1])
    for _ in range(steps):
        wrong = 1 / (1 + np.exp(features @ weights))
        curvature = features.T @ (features * (wrong * (1 - wrong))[:, None])
        weights += np.linalg.solve(curvature, features.T @ wrong)
    return weights


def against_length(margins: np.ndarray, length: np.ndarray, prompts: np.ndarray) -> Row:
    """Accuracy of margins and of "prefer the longer", and what the first gains."""
    right, longer = ((1 + np.sign(values)) / 2 for values in (margins, length))
    found = over_clusters([right.tolist(), longer.tolist(), (right - longer).tolist()], prompts.tolist())
    names = ("accuracy", "length_accuracy", "gain")
    rest = {"length_rule": "prefer the longer", "accuracy_where_the_rule_is_wrong": _share(right[longer < 0.5])}
    counts = {"pairs": len(margins), "prompts": len(set(prompts.tolist()))}
    return counts | {name: listed(interval) for name, interval in zip(names, found, strict=True)} | rest


def _share(values: np.ndarray) -> float:
    return round(float(values.mean()), 4)


def pairs(given: argparse.Namespace) -> Row:
    """Bradley-Terry reward models on pairs, one for each fold."""
    out, found, untrained = given.out / "pairs", {}, {}
    for number, (train, held_out) in enumerate(folds(given.pairs, out, prompt_of)):
        fold, settings = out / f"fold={number}", [*COMMON, *PAIRS]
        writer = able_to_write(given.policy, train, "pairs_to_chosen", fold / "writer", settings)
        found[str(number)] = scored("bradley_terry", writer, train, held_out, fold / "trained", settings)
        untrained[str(number)] = scored("bradley_terry", given.policy, None, held_out, fold / "untrained", settings)
    return measured(found) | {"untrained": measured(untrained)["accuracy"]}


def prompt_of(row: Row) -> str:
    """What a transcript says before its last reply."""
    return str(row["chosen"]).rpartition("\n\nAssistant:")[0]


# -------------------------------------------------------------------- parts


def read(path: Path) -> list[Row]:
    """Rows of a file of JSON lines."""
    opened = gzip.open if path.suffix == ".gz" else open
    with opened(path, "rt", encoding="utf-8") as lines:
        return [json.loads(line) for line in lines]


def folds(source: Path, out: Path, prompt: Any) -> list[tuple[Path, Path]]:
    """Files to train on and to test on, for each fold; rows of one prompt are in one fold."""
    rows = read(source)
    number = [int(hashlib.sha256(prompt(row).encode()).hexdigest(), 16) % FOLDS for row in rows]
    files = []
    for fold in range(FOLDS):
        train, held_out = out / f"train_{fold}.jsonl", out / f"heldout_{fold}.jsonl"
        write(train, (row for row, own in zip(rows, number, strict=True) if own != fold))
        write(held_out, (row for row, own in zip(rows, number, strict=True) if own == fold))
        files.append((train, held_out))
    return files


def write(path: Path, rows: Iterable[Row]) -> None:
    """Write JSON lines."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")


def longer_context(policy: Path, folder: Path, tokens: int) -> Path:
    """A copy of a model whose configuration allows longer texts: rotary positions have no end."""
    shutil.copytree(policy, folder, dirs_exist_ok=True)
    for file, name in (("config.json", "max_position_embeddings"), ("tokenizer_config.json", "model_max_length")):
        settings = json.loads((folder / file).read_text(encoding="utf-8"))
        (folder / file).write_text(json.dumps(settings | {name: tokens}, indent=2), encoding="utf-8")
    return folder


def able_to_write(policy: Path, train: Path, convert: str, run: Path, settings: Sequence[str]) -> Path:
    """The policy after fine-tuning on the better responses; what is there already is kept."""
    model = run / "export"
    if not model.is_dir():
        fit("sft", policy, train, run, [*settings, *WRITING, "--data.convert", convert])
        lit_align("export", str(run), "--out", str(model))
    return model


def scored(
    method: str,
    policy: Path,
    train: Path | None,
    held_out: Path,
    run: Path,
    settings: Sequence[str],
) -> Path:
    """Train, unless there is nothing to train on, and score the held-out rows; what is there already is kept."""
    scores = run / "scores.jsonl"
    if scores.is_file():
        return scores
    model = ["--config", str(CONFIGS / f"{method}.yaml"), "--model.policy", str(policy), *settings]
    if train is not None:
        fit(method, policy, train, run, [*settings, *SCORING[method]])
        model = ["--config", str(run / "config.yaml"), "--ckpt_path", "last"]
    lit_align("score", *model, "--data.predict", str(held_out), "--out", str(scores))
    return scores


def fit(method: str, policy: Path, train: Path, run: Path, settings: Sequence[str]) -> None:
    """Train, from where an earlier call was killed."""
    lit_align("fit", "--config", str(CONFIGS / f"{method}.yaml"), "--model.policy", str(policy), *settings,
              "--data.train", str(train), "--trainer.default_root_dir", str(run), "--ckpt_path", "last")  # fmt: skip


def lit_align(*arguments: str) -> None:
    """Run a verb of the command."""
    subprocess.run([sys.executable, "-m", "lit_align", *arguments], check=True)


def measured(files: dict[str, Path]) -> Row:
    """Accuracy of scores on all pairs, of the better length rule, and by how much the model beats it.

    Args:
        files: scores by fold.
    """
    found: list[tuple[str, Pair]] = []
    for fold, path in files.items():
        found += [(f"{fold} {pair.chosen.id}", pair) for pair in pair_up(read_scores(path)).pairs]
    right = np.array([_half(pair.chosen.score, pair.rejected.score) for _, pair in found])
    longer = np.array([_half(pair.chosen.len_chars, pair.rejected.len_chars) for _, pair in found])
    rule = longer if longer.mean() >= 0.5 else 1 - longer
    shorter_won = rule < 0.5
    clusters = [cluster for cluster, _ in found]
    accuracy, baseline, gain = over_clusters([right.tolist(), rule.tolist(), (right - rule).tolist()], clusters)
    return {
        "pairs": len(found),
        "prompts": len(set(clusters)),
        "accuracy": listed(accuracy),
        "length_rule": "prefer the longer" if longer.mean() >= 0.5 else "prefer the shorter",
        "length_accuracy": listed(baseline),
        "gain": listed(gain),
        "accuracy_where_the_rule_is_wrong": _share(right[shorter_won]),
    }


def _half(one: float | None, other: float | None) -> float:
    return 0.5 if one == other else float(_known(one) > _known(other))


def _known(score: float | None) -> float:
    assert score is not None, "every response has a score"
    return score


def listed(interval: Interval) -> list[float]:
    """Estimate, low, high."""
    return [round(value, 4) for value in interval[:3]]


def rankings(scores: Path, held_out: Path, out: Path) -> tuple[Row, Row]:
    """Bradley-Terry points of the models that wrote the responses: by the reward model, and by the data's scores."""
    found = []
    for source, folder in ((scores, out / "ranking"), (held_out, out / "ranking_of_the_data")):
        lit_align("evaluate", "ranking", str(source), "--out", str(folder))
        tables = json.loads((folder / "evaluation.json").read_text(encoding="utf-8"))["tables"]
        table = next(table for table in tables if "bradley" in table["id"])
        name, points = table["columns"].index("model"), table["columns"].index("points")
        found.append({row[name]: row[points] for row in table["rows"]})
    return found[0], found[1]


def page(results: Row) -> str:
    """The results as a page for people."""
    lines = [
        "# Reward models on real preferences",
        "",
        "Written by `benchmarks/reward_models.py`. Held-out pairs; 95 % intervals from a bootstrap over prompts.",
        "",
        "| data | pairs | prompts | untrained head | trained | length rule | its accuracy | gain over it "
        "| right where the rule is wrong |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for name, row in results.items():
        cells = [name, row["pairs"], row["prompts"], share(row["untrained"]), share(row["accuracy"]),
                 row["length_rule"], share(row["length_accuracy"]), share(row["gain"]),
                 f"{100 * row['accuracy_where_the_rule_is_wrong']:.1f} %"]  # fmt: skip
        lines.append("| " + " | ".join(map(str, cells)) + " |")
    ranked = results.get("ranked")
    if ranked is None:
        return "\n".join(lines) + "\n"
    lines += [
        "",
        "Of `ranked`, pairs whose lengths differ by at most a fifth; and all pairs, by score and length together:",
        "",
        "| pairs judged | pairs | accuracy | prefer the longer | gain over it |",
        "|---|---|---|---|---|",
    ]
    for name in ("like length", "with length"):
        found = [share(ranked[name][key]) for key in ("accuracy", "length_accuracy", "gain")]
        lines.append("| " + " | ".join(map(str, [name, ranked[name]["pairs"], *found])) + " |")
    lines += [
        "",
        "Bradley-Terry points of the models that wrote the answers, by the first fold's scores and by those of the "
        f"data (GPT-4's); Spearman's correlation of the two {ranked['spearman']:.2f}.",
        "",
        "| model | reward model | data |",
        "|---|---|---|",
    ]
    for name, points in sorted(ranked["ranking_of_the_data"].items(), key=lambda item: -item[1]):
        lines.append(f"| {name} | {ranked['ranking'][name]:.0f} | {points:.0f} |")
    return "\n".join(lines) + "\n"


def share(triple: Sequence[float]) -> str:
    """A share with its interval, in percent."""
    value, low, high = (100 * number for number in triple)
    return f"{value:.1f} % [{low:.1f}, {high:.1f}]"


if __name__ == "__main__":
    main()
