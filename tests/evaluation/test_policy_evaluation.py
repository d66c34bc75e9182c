"""Policies: prompts, completions and judgements that are kept, and what is said of them."""

from __future__ import annotations

import json
import shutil
from collections import Counter

import pytest

from lit_align.core.errors import ConfigError, DataError
from lit_align.data.text_settings import FILE, TextSettings
from lit_align.evaluation.policy_evaluation import Evaluated, evaluate_policies, won_by
from lit_align.evaluation.policy_files import (
    Asked,
    Prompts,
    Sampling,
    Verdicts,
    complete,
    judge_all,
    read_prompts,
    with_room,
)
from lit_align.judges.base import Judged, PairwiseJudge, PointwiseJudge, Verdict
from lit_align.rollouts.hf_engine import HFEngine
from tests.evaluation.test_reward_evaluation import figure, table


class Longer(PointwiseJudge):
    """Likes length, and cannot judge what is empty or begins with an x."""

    asked = 0

    def score(self, prompts, completions, **columns):
        type(self).asked += len(prompts)
        assert all(len(values) == len(prompts) for values in columns.values())
        return [Judged(None, "no words: x") if text[:1] in "x" else Judged(float(len(text))) for text in completions]


class Shorter(PairwiseJudge):
    """Likes brevity a little."""

    def compare(self, prompts, firsts, seconds, **columns):
        return [
            Verdict(None, "too wild") if one == other else Verdict(0.75 if len(one) < len(other) else 0.25)
            for one, other in zip(firsts, seconds, strict=True)
        ]


def write(path, rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


# -------------------------------------------------------------------- prompts


def test_prompts_of_data_of_any_kind(tmp_path):
    pairs = [{"prompt": f"p{n % 3}", "chosen": "yes", "rejected": "no", "answer": n} for n in range(5)]
    found = read_prompts(write(tmp_path / "pairs.jsonl", pairs))
    assert [(one.id, one.prompt, one.columns["answer"]) for one in found.asked] == [
        ("1", "p0", 0),
        ("2", "p1", 1),
        ("3", "p2", 2),
    ]
    assert found.left_out == {"the same prompt once more": 2}
    assert len(read_prompts(str(tmp_path / "pairs.jsonl"), limit=2).asked) == 2


def test_prompts_become_turns(tmp_path):
    path = write(tmp_path / "p.jsonl", [{"prompt": "Hi"}])
    (one,) = read_prompts(path, as_chat=True, system_prompt="Be kind.").asked
    assert one.prompt == [{"role": "system", "content": "Be kind."}, {"role": "user", "content": "Hi"}]
    assert read_prompts(path, system_prompt="Be kind.").asked[0].prompt == "Hi"


def test_prompts_without_room_are_left_out_for_all(tiny_model_dir):
    engine = HFEngine(tiny_model_dir)
    limit = 10_000
    asked = [Asked(str(n), n, "word " * size, {}) for n, size in enumerate((1, limit), start=1)]
    kept = with_room(Prompts(asked, Counter()), {"tiny": engine}, 4)
    assert [one.id for one in kept.asked] == ["1"]
    assert kept.left_out == {"too long for tiny": 1}
    with pytest.raises(DataError, match="no prompt leaves room"):
        with_room(Prompts(asked[1:], Counter()), {"tiny": engine}, 4)


# -------------------------------------------------------------------- files


@pytest.fixture
def asked():
    return [Asked(str(n), n, f"Say {n}: ", {"n": n}) for n in range(1, 6)]


def test_completions_are_kept_and_do_not_hang_on_the_company(tiny_model_dir, tmp_path, asked):
    engine, sampling = HFEngine(tiny_model_dir), Sampling(max_new_tokens=6, temperature=1.0, seed=3)
    records = complete("tiny", engine, asked, sampling, tmp_path, overwrite=False)
    assert [record["id"] for record in records] == ["1", "2", "3", "4", "5"]
    assert all(record["len_chars"] == len(record["response"]) for record in records)
    alone = complete("tiny", engine, asked[3:4], sampling, tmp_path / "alone", overwrite=False)
    assert alone[0]["response"] == records[3]["response"]
    engine.release()

    def never(*args, **kwargs):
        raise AssertionError("made again")

    engine.generate = never
    assert complete("tiny", engine, asked, sampling, tmp_path, overwrite=False) == records
    with pytest.raises(ConfigError, match="something else") as caught:
        complete("tiny", engine, asked, sampling._replace(seed=4), tmp_path, overwrite=False)
    assert "other sampling" in str(caught.value)


def test_completions_follow_the_prompts_that_a_model_was_trained_on(tiny_model_dir, tmp_path, asked):
    shutil.copytree(tiny_model_dir, tmp_path / "model")
    (tmp_path / "model" / FILE).write_text(TextSettings(separator=" => ").to_json())
    made = {}
    for name, engine, prompts in (
        ("exported", HFEngine(tmp_path / "model"), asked),
        ("told", HFEngine(tmp_path / "model", separator=""), asked),
        ("plain", HFEngine(tiny_model_dir), asked),
        ("written", HFEngine(tiny_model_dir), [one._replace(prompt=f"{one.prompt} => ") for one in asked]),
    ):
        records = complete(name, engine, prompts, Sampling(max_new_tokens=6), tmp_path, overwrite=False)
        made[name] = [record["response"] for record in records]
        assert [record["prompt"] for record in records] == [one.prompt for one in prompts]
    assert made["exported"] == made["written"] != made["plain"] == made["told"]
    with pytest.raises(ConfigError, match="other text"):
        complete("exported", HFEngine(tmp_path / "model", separator="!"), asked, Sampling(max_new_tokens=6), tmp_path,
                 overwrite=False)  # fmt: skip


def completions(**texts):
    return {
        model: [
            {"id": str(n), "row": n, "model": model, "prompt": f"p{n}", "response": text, "len_tokens": len(text) + 1,
             "len_chars": len(text), "finished": n % 2 == 0}
            for n, text in enumerate(many, start=1)
        ]
        for model, many in texts.items()
    }  # fmt: skip


def kept(tmp_path, generations):
    for model, records in generations.items():
        (tmp_path / "generations").mkdir(exist_ok=True)
        write(tmp_path / "generations" / f"{model}.jsonl", records)
    return generations


def test_judgements_are_kept_until_the_completions_change(tmp_path, asked):
    generations = kept(tmp_path, completions(a=["aa", "b", "", "d", "e"], b=["a", "bb", "c", "d", "xx"]))
    Longer.asked = 0
    for _ in range(2):
        found = judge_all("long", {"class_path": "Longer"}, Longer, asked, generations, tmp_path, overwrite=False)
    assert Longer.asked == 10
    assert won_by(found, "a", "b") == [1, 0, None, 0.5, None]
    assert won_by(found, "b", "a") == [0, 1, None, 0.5, None]
    lines = [json.loads(line) for line in (tmp_path / "scores" / "long" / "a.jsonl").read_text().splitlines()]
    assert {*lines[0]} == {
        "id", "source", "model", "rm", "prompt", "response", "score", "len_tokens", "len_chars", "meta"
    }  # fmt: skip
    assert lines[2]["score"] is None
    assert lines[2]["meta"] == {"reason": "no words: x"}
    generations = kept(tmp_path, completions(a=["aaaa", "b", "", "d", "e"], b=["a", "bb", "c", "d", "xx"]))
    with pytest.raises(ConfigError, match="something else") as caught:
        judge_all("long", {"class_path": "Longer"}, Longer, asked, generations, tmp_path, overwrite=False)
    assert "other completions" in str(caught.value)


def test_judges_that_compare(tmp_path, asked):
    generations = kept(tmp_path, completions(a=["aa", "b", "", "d", "e"], b=["a", "bb", "c", "d", "xx"]))
    found = judge_all("short", {"class_path": "Shorter"}, Shorter, asked, generations, tmp_path, overwrite=False)
    assert (tmp_path / "comparisons" / "short" / "a_vs_b.jsonl").is_file()
    assert won_by(found, "a", "b") == [0.25, 0.75, 0.75, None, 0.75]
    assert won_by(found, "b", "a") == [0.75, 0.25, 0.25, None, 0.25]


def test_a_judge_of_many_samples_is_refused(tmp_path, asked):
    judge = Longer()
    judge.needs_all_samples = True
    with pytest.raises(ConfigError, match="depends on what else"):
        judge_all("vote", {}, lambda: judge, asked, {}, tmp_path, overwrite=False)


# -------------------------------------------------------------------- the document


def evaluated(tmp_path, count=24, judges=(("long", Longer), ("short", Shorter))):
    asked = [Asked(str(n), n, f"p{n}", {}) for n in range(1, count + 1)]
    texts = {
        "base": ["plain words " * (n % 4 + 1) for n in range(count)],
        "longer": ["many more words " * (n % 4 + 1) for n in range(count)],
        "odd": ["xx" if n % 6 == 0 else "plain words " * (n % 3 + 1) for n in range(count)],
    }
    generations = kept(tmp_path, completions(**texts))
    verdicts = {
        name: judge_all(name, {"class_path": name}, make, asked, generations, tmp_path, overwrite=False)
        for name, make in judges
    }
    return Evaluated(Prompts(asked, Counter({"too long for base": 2})), generations, verdicts, "base")


def test_what_is_said_of_policies(tmp_path):
    document = evaluate_policies(evaluated(tmp_path))
    rates = {(row["judge"], row["model"], row["against"]): row for row in table(document, "Win rates")}
    assert rates["long", "longer", "base"]["win rate"] == 1
    assert rates["short", "longer", "base"]["win rate"] == 0.25
    assert rates["long", "odd", "base"]["not judged"] == 4
    assert ("long", "longer", "odd") in rates
    controlled = table(document, "Length-controlled win rates against base")
    assert [(row["judge"], row["model"]) for row in controlled] == [
        ("long", "longer"), ("long", "odd"), ("short", "longer"), ("short", "odd")
    ]  # fmt: skip
    scores = {(row["judge"], row["model"]): row for row in table(document, "Scores")}
    assert {judge for judge, _ in scores} == {"long"}
    assert scores["long", "base"]["mean"] == pytest.approx(12 * 2.5)
    assert scores["long", "odd"]["not judged"] == 4
    reasons = {(row["judge"], row["reason"]): row["times"] for row in table(document, "Not judged")}
    assert reasons["long", "no words"] == 4
    assert reasons["short", "too wild"] > 0
    lengths = {row["model"]: row for row in table(document, "Completions")}
    assert lengths["base"]["characters, mean"] == pytest.approx(12 * 2.5)
    assert lengths["base"]["unfinished"] == 0.5
    assert table(document, "Prompts left out") == [{"reason": "too long for base", "prompts": 2}]
    assert "Ranking by Bradley-Terry, long" in [one["title"] for one in document.tables]
    words = {row["word"]: row["typical of"] for row in table(document, "Telling words: base and longer")}
    assert words["plain"] == "base"
    assert words["many"] == words["more"] == "longer"


def test_figures_and_samples_of_policies(tmp_path):
    document = evaluate_policies(evaluated(tmp_path))
    bars = figure(document, "Mean scores by generator and judge")
    assert bars["labels"] == ["base", "longer", "odd"]
    assert bars["series"]["long"][1] > bars["series"]["long"][0]
    assert {*figure(document, "Scores by long")["groups"]} == {"base", "longer", "odd"}
    difference = figure(document, "Score differences of longer and base by long")
    assert difference["zero"] is True
    assert "100.0% won" in difference["note"]
    rates = figure(document, "Win rates against base")
    assert len(rates["labels"]) == 4
    assert rates["owners"] == ["longer", "odd"] * 2, "a colour stands for a model"
    assert rates["line"] == 0.5
    headline = document.as_json()["headline"]
    assert [line["name"] for line in headline][:1] == ["win rate of longer against base, judged by long"]
    assert [line["after"] for line in headline] == rates["values"]
    assert headline[0]["interval"] == rates["intervals"][0]
    assert document.samples["columns"] == ["base", "longer", "odd"]
    assert len(document.samples["rows"]) == 12
    first = document.samples["rows"][0]
    assert first["scores"][:2] == [float(len(text)) for text in first["texts"][:2]]
    assert document.summary["win_rates"]["long"]["longer"] == 1
    assert document.as_json() == evaluate_policies(evaluated(tmp_path)).as_json()


def test_a_judge_that_can_judge_nothing(tmp_path):
    generations = kept(tmp_path, completions(a=["x"] * 3, b=["x"] * 3))
    asked = [Asked(str(n), n, f"p{n}", {}) for n in range(1, 4)]
    verdicts = judge_all("long", {}, Longer, asked, generations, tmp_path, overwrite=False)
    document = evaluate_policies(Evaluated(Prompts(asked, Counter()), generations, {"long": verdicts}, "a"))
    assert "Win rates" not in [one["title"] for one in document.tables]
    assert table(document, "Not judged")[0]["times"] == 6
    assert "long could not judge 6 of 6" in document.about


def test_verdicts_either_way_round():
    compared = {("a", "b"): [{"probability": 0.9, "reason": ""}, {"probability": None, "reason": "?"}]}
    verdicts = Verdicts({}, compared, {})
    assert won_by(verdicts, "b", "a") == [pytest.approx(0.1), None]
