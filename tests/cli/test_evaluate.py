"""`lit-align evaluate`, end to end on tiny models and files."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest
import torch
import yaml
from transformers import AutoConfig, AutoModelForSequenceClassification

from lit_align.__main__ import main
from lit_align.core.errors import ConfigError
from lit_align.tools.evaluate_policies import model_folder, read_judges
from tests.helpers import build_tiny_tokenizer, save_tiny_model


def read(folder):
    return json.loads((folder / "evaluation.json").read_text())


def refused(capsys, *arguments: str) -> str:
    assert main(["evaluate", *arguments]) == 2
    return capsys.readouterr().err


@pytest.fixture
def scores(tmp_path, monkeypatch):
    """Score files as `lit-align score` writes them, and the data that they name."""
    monkeypatch.chdir(tmp_path)
    rows = [
        {"prompt": f"p{n}", "chosen": "yes", "rejected": "no", "source": "web" if n % 2 else "book"} for n in range(8)
    ]
    (tmp_path / "pairs.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    for name, gain in (("untrained", 0.0), ("trained", 1.0)):
        lines = [
            {"file": "pairs.jsonl", "row": n + 1, "response": side, "role": role, "prompt": f"<s>p{n}",
             "completion": text, "tokens": len(text), "reward": (n % 3) / 3 + gain * (1 - side)}
            for n in range(8)
            for side, (role, text) in enumerate((("chosen", "yes</s>"), ("rejected", "no</s>")))
        ]  # fmt: skip
        (tmp_path / f"{name}.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return tmp_path


# -------------------------------------------------------------------- rewards


def test_rewards(scores, capsys, tiny_model_dir):
    arguments = ["untrained=untrained.jsonl", "trained.jsonl", "--out", "out", "--embed", tiny_model_dir]
    assert main(["evaluate", "rewards", *arguments, "--title", "Two of them"]) == 0
    said = capsys.readouterr().out
    assert "Accuracy and rewards" in said
    assert "out/evaluation.json" in said
    found = read(scores / "out")
    assert (found["kind"], found["title"], found["labels"]) == ("rewards", "Two of them", ["untrained", "trained"])
    assert found["summary"]["untrained"]["accuracy"] == 0
    assert found["summary"]["untrained"]["n_ties"] == 8
    assert found["summary"]["trained"]["accuracy"] == 1
    tables = {table["id"] for table in found["tables"]}
    assert {"accuracy-and-rewards", "length", "calibration", "accuracy-by-source"} <= tables
    kinds = {figure["kind"] for figure in found["figures"]}
    assert {"histogram", "box", "lines", "bars", "scatter"} <= kinds
    assert (scores / "out" / "evaluation.md").read_text().startswith("# Two of them")
    again = (scores / "out" / "evaluation.json").read_bytes()
    assert main(["evaluate", "rewards", *arguments, "--title", "Two of them"]) == 0
    assert (scores / "out" / "evaluation.json").read_bytes() == again


def test_rewards_that_cannot_be_evaluated(scores, capsys):
    assert "cannot be opened" in refused(capsys, "rewards", "gone.jsonl")
    assert "scores must be given" in refused(capsys, "rewards")
    assert "colour" in refused(capsys, "rewards", "trained.jsonl", "--colour", "red")
    assert "a name stands twice" in refused(capsys, "rewards", "trained.jsonl", "trained=untrained.jsonl")
    assert "NAME=PATH" in refused(capsys, "rewards", "a/b=trained.jsonl")
    assert "nothing is known of this column" in refused(capsys, "rewards", "trained.jsonl", "--by", "colour")
    (scores / "trained.jsonl").write_text((scores / "trained.jsonl").read_text() + "{broken\n")
    said = refused(capsys, "rewards", "trained.jsonl")
    assert "trained.jsonl, row 17" in said


# -------------------------------------------------------------------- ranking


def test_ranking(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    rows = [
        {"prompt": f"p{n}", "responses": ["a" * (n % 7 + 1), "b" * 3], "scores": [n % 5, 2], "models": ["one", "two"]}
        for n in range(20)
    ]
    (tmp_path / "ranked.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert main(["evaluate", "ranking", "ranked.jsonl", "--baseline", "two", "--out", "ranks"]) == 0
    assert "Ranking by Bradley-Terry" in capsys.readouterr().out
    found = read(tmp_path / "ranks")
    assert found["kind"] == "ranking"
    assert [figure["kind"] for figure in found["figures"]] == ["points"] * 3
    for name in ("one", "two"):
        column = ["one", "two"].index(name)
        lines = [{"id": str(n), "source": "generated", "prompt": "p", "response": row["responses"][column],
                  "score": row["scores"][column]} for n, row in enumerate(rows)]  # fmt: skip
        (tmp_path / f"{name}.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    assert main(["evaluate", "ranking", "one.jsonl", "two.jsonl", "--baseline", "two", "--out", "files"]) == 0
    same = read(tmp_path / "files")
    assert same["tables"] == found["tables"]
    lines = [
        {"file": "ranked.jsonl", "row": n + 1, "response": place, "given_score": row["scores"][place], "prompt": "p",
         "completion": row["responses"][place], "tokens": 3, "reward": row["scores"][place]}
        for n, row in enumerate(rows) for place in (0, 1)
    ]  # fmt: skip
    (tmp_path / "scored.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    assert main(["evaluate", "ranking", "scored.jsonl", "--baseline", "two", "--out", "scored"]) == 0
    assert read(tmp_path / "scored")["tables"] == found["tables"]
    assert "left out" not in read(tmp_path / "scored")["about"]
    # Where a response is empty, `score` leaves it out, so that the others' places no longer tell who wrote them.
    rows[3]["responses"][0] = ""
    (tmp_path / "ranked.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (tmp_path / "fewer.jsonl").write_text("".join(json.dumps(line) + "\n" for n, line in enumerate(lines) if n != 6))
    assert main(["evaluate", "ranking", "fewer.jsonl", "--out", "fewer"]) == 0
    assert "1 responses of the score file are left out" in read(tmp_path / "fewer")["about"]
    assert "does not say who wrote" in refused(capsys, "ranking", "one.jsonl")
    assert "one score file makes no ranking" in refused(capsys, "ranking", "one=one.jsonl")
    assert "no such baseline" in refused(capsys, "ranking", "ranked.jsonl", "--baseline", "three")


def scores_of(path, judge, bonus=0.0, only=lambda n: True):
    lines = [{"id": str(n), "source": "generated", "prompt": "p", "response": "a" * (n + 1), "score": n % 3 + bonus,
              **({"rm": judge} if judge and only(n) else {})} for n in range(12)]  # fmt: skip
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))


class TestOneJudge:
    """Scores of different judges rank nothing."""

    def rank(self, tmp_path, monkeypatch, **files):
        monkeypatch.chdir(tmp_path)
        for bonus, (name, (judge, only)) in enumerate(files.items()):
            scores_of(tmp_path / f"{name}.jsonl", judge, bonus, only)
        return main(["evaluate", "ranking", *(f"{name}={name}.jsonl" for name in files), "--out", "ranks"])

    def test_two_are_refused(self, tmp_path, monkeypatch, capsys):
        always = lambda n: True  # noqa: E731 - of a test
        assert self.rank(tmp_path, monkeypatch, one=("kind", always), two=("strict", always)) == 2
        message = capsys.readouterr().err
        assert "different judges" in message
        assert "one: kind; two: strict" in message
        assert not (tmp_path / "ranks").exists()

    def test_two_in_one_file_are_refused(self, tmp_path, monkeypatch, capsys):
        monkeypatch.chdir(tmp_path)
        lines = [{"id": str(n), "source": "generated", "model": model, "rm": rm, "prompt": "p", "response": "a",
                  "score": n} for n in range(4) for model, rm in (("one", "kind"), ("two", "strict"))]  # fmt: skip
        (tmp_path / "all.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
        assert main(["evaluate", "ranking", "all.jsonl", "--out", "ranks"]) == 2
        assert "kind, strict" in capsys.readouterr().err

    @pytest.mark.parametrize(
        ("judges", "unknown"),
        [
            ((("kind", lambda n: True), ("kind", lambda n: True)), ""),
            ((("kind", lambda n: True), ("", lambda n: True)), "two"),
            ((("kind", lambda n: n > 3), ("kind", lambda n: True)), "one"),
            ((("", lambda n: True), ("", lambda n: True)), "one, two"),
        ],
    )
    def test_it_is_said_where_nobody_knows(self, judges, unknown, tmp_path, monkeypatch, capsys):
        assert self.rank(tmp_path, monkeypatch, one=judges[0], two=judges[1]) == 0
        said = f"It is not known who scored {unknown}:"
        about = read(tmp_path / "ranks")["about"]
        assert (said in about) == (said in capsys.readouterr().err) == bool(unknown)

    def test_files_of_lit_align_judge_know_their_judge(self, tmp_path, monkeypatch, capsys):
        monkeypatch.chdir(tmp_path)
        for name, text in (("one", "so 42"), ("two", "so 41")):
            rows = [{"prompt": f"{n}", "completion": text if n % 2 else "42", "ground_truth": "42"} for n in range(6)]
            (tmp_path / f"{name}_data.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
            command = ["judge", "--judge", "NumericMatch", "--data", f"{name}_data.jsonl", "--out", f"{name}.jsonl"]
            assert main(command) == 0
            # The records say from which file they are; here they are of the same prompts.
            assert main([*command[:-1], f"{name}_other.jsonl", "--judge.tolerance", "0.5"]) == 0
        for path in tmp_path.glob("*.jsonl"):
            path.write_text(path.read_text().replace("two_data", "one_data"))
        capsys.readouterr()
        assert main(["evaluate", "ranking", "one=one.jsonl", "two=two.jsonl", "--out", "ranks"]) == 0
        assert "not known who scored" not in capsys.readouterr().err
        assert main(["evaluate", "ranking", "one=one.jsonl", "two=two_other.jsonl", "--out", "others"]) == 2
        assert "different judges" in capsys.readouterr().err


# -------------------------------------------------------------------- policies


@pytest.fixture
def world(folder, tmp_path_factory):
    """A second model, a reward model, prompts and judges beside `folder`'s model."""
    save_tiny_model(folder / "after", seed=1)
    torch.manual_seed(0)
    config = AutoConfig.from_pretrained(folder / "model", num_labels=1)
    AutoModelForSequenceClassification.from_config(config).save_pretrained(folder / "rm")
    build_tiny_tokenizer().save_pretrained(folder / "rm")
    judges = {
        "rm": {"class_path": "RewardModelJudge", "init_args": {"model": "rm"}},
        "letters": {"class_path": "RegexMatch", "init_args": {"pattern": "[a-z]"}},
    }
    (folder / "judges.yaml").write_text(yaml.safe_dump(judges, sort_keys=False))
    return folder


POLICIES = ["policies", "--prompts", "prompts.jsonl", "--models", "before=model", "after=after", "--judges"]
SHORT = ["--max_new_tokens", "5", "--out", "out"]


def test_policies(world, capsys):
    arguments = [*POLICIES, "judges.yaml", *SHORT, "--align_anything", "--temperature", "1", "--embed", "model"]
    assert main(["evaluate", *arguments]) == 0
    assert "Win rates" in capsys.readouterr().out
    found = read(world / "out")
    assert (found["kind"], found["labels"]) == ("policies", ["before", "after"])
    for name in ("generations/before.jsonl", "scores/rm/after.jsonl", "scores/letters/before.jsonl"):
        assert len((world / "out" / name).read_text().splitlines()) == 6
    assert len(json.loads((world / "out/align_anything/rm/after.json").read_text())) == 6
    tables = {table["id"]: table for table in found["tables"]}
    assert {"win-rates", "scores", "completions"} <= {*tables}
    assert [row[:3] for row in tables["win-rates"]["rows"]] == [
        ["rm", "after", "before"],
        ["letters", "after", "before"],
    ]
    assert "scatter" in {figure["kind"] for figure in found["figures"]}
    assert [len(row["texts"]) for row in found["samples"]["rows"]] == [2] * 6
    before = {path: path.read_bytes() for path in (world / "out").rglob("*.json*") if path.name != "facts.json"}
    times = {path: path.stat().st_mtime_ns for path in (world / "out" / "generations").iterdir()}
    assert main(["evaluate", *arguments]) == 0
    assert "of 6 prompts" not in capsys.readouterr().out
    assert {path: path.stat().st_mtime_ns for path in (world / "out" / "generations").iterdir()} == times
    assert {path: path.read_bytes() for path in before} == before


def test_other_settings_are_refused_and_overwritten(world, capsys):
    assert "names its judges itself" in refused(capsys, *POLICIES, "letters=judges.yaml", *SHORT)
    assert main(["evaluate", *POLICIES, "rm=rm", *SHORT]) == 0
    said = refused(capsys, *POLICIES, "rm=rm", "--max_new_tokens", "6", "--out", "out")
    assert "other sampling" in said
    assert "--overwrite" in said
    assert main(["evaluate", *POLICIES, "rm=rm", "--max_new_tokens", "6", "--out", "out", "--overwrite"]) == 0
    assert "6 of 6 prompts" in capsys.readouterr().out
    # A model more: only its own completions are made.
    save_tiny_model(world / "third", seed=2)
    more = [*POLICIES[:-1], "third=third", "--judges", "rm=rm", "--max_new_tokens", "6", "--out", "out"]
    assert main(["evaluate", *more]) == 0
    said = capsys.readouterr().out
    assert "third: 6 of 6 prompts" in said
    assert "before: 6 of 6 prompts" not in said


KILLED = """
import sys
from lit_align.evaluation import policy_files
from lit_align.rollouts.hf_engine import HFEngine
policy_files._CHUNK = 2
whole = HFEngine.generate
def generate(self, prompts, **settings):
    generate.calls += 1
    if generate.calls == 5:
        import os, signal
        os.kill(os.getpid(), signal.SIGKILL)
    return whole(self, prompts, **settings)
generate.calls = 0
HFEngine.generate = generate
from lit_align.__main__ import main
main(sys.argv[1:])
"""


def test_a_killed_run_goes_on(world, capsys, monkeypatch):
    monkeypatch.setattr("lit_align.evaluation.policy_files._CHUNK", 2)
    arguments = ["evaluate", *POLICIES, "rm=rm", "--batch_size", "2", "--temperature", "1", *SHORT]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    killed = subprocess.run([sys.executable, "-c", KILLED, *arguments], env=environment, capture_output=True, text=True)
    assert killed.returncode == -9, killed.stderr
    assert (world / "out/generations/before.jsonl").is_file()
    assert not (world / "out/generations/after.jsonl").exists()
    assert main(arguments) == 0
    said = capsys.readouterr().out
    assert "after.jsonl: going on after 2 of 6" in said
    assert "before: " not in said
    assert main([*arguments[:-1], "other"]) == 0
    for name in ("generations/after.jsonl", "scores/rm/after.jsonl", "evaluation.json"):
        assert (world / "out" / name).read_bytes() == (world / "other" / name).read_bytes()


def test_policies_that_cannot_be_evaluated(world, capsys):
    one = ["policies", "--prompts", "prompts.jsonl", "--models", "before=model", "--judges", "rm=rm"]
    assert "nothing to compare" in refused(capsys, *one)
    assert "no such baseline" in refused(capsys, *POLICIES, "rm=rm", "--baseline", "nobody")
    assert "no such file of judges" in refused(capsys, *POLICIES, "gone.yaml")
    assert "out of range" in refused(capsys, *POLICIES, "rm=rm", "--limit", "0")
    assert "leaves room" in refused(capsys, *POLICIES, "rm=rm", "--max_new_tokens", "100000", "--out", "x")
    assert not (world / "runs").exists(), "nothing is made where the command is wrong"


def test_which_folder_is_meant(tmp_path):
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "config.json").write_text("{}")
    assert model_folder(str(tmp_path / "model")) == str(tmp_path / "model")
    assert model_folder("org/name") == "org/name"
    (tmp_path / "run" / "checkpoints").mkdir(parents=True)
    with pytest.raises(ConfigError, match="has not been exported") as caught:
        model_folder(str(tmp_path / "run"))
    assert f"lit-align export {tmp_path}/run" in str(caught.value)
    (tmp_path / "run" / "export").mkdir()
    (tmp_path / "run" / "export" / "config.json").write_text("{}")
    assert model_folder(str(tmp_path / "run")) == str(tmp_path / "run" / "export")
    (tmp_path / "empty").mkdir()
    with pytest.raises(ConfigError, match="holds no model"):
        model_folder(str(tmp_path / "empty"))


def test_descriptions_of_judges(tmp_path):
    one = {"class_path": "RegexMatch", "init_args": {"pattern": "x"}}
    (tmp_path / "one.yaml").write_text(yaml.safe_dump(one))
    (tmp_path / "under.yaml").write_text(yaml.safe_dump({"judge": one}))
    (tmp_path / "many.yaml").write_text(yaml.safe_dump({"a": one, "b": one}))
    found = read_judges([str(tmp_path / "one.yaml"), f"named={tmp_path / 'under.yaml'}", str(tmp_path / "many.yaml")])
    assert found == {"one": one, "named": one, "a": one, "b": one}
    with pytest.raises(ConfigError, match="two judges have one name"):
        read_judges([str(tmp_path / "many.yaml"), f"a={tmp_path / 'one.yaml'}"])
    for content, words in (("a: 3", "describes no judge"), ("- x", "no mapping"), ("a: [", "no YAML")):
        (tmp_path / "bad.yaml").write_text(content)
        with pytest.raises(ConfigError, match=words):
            read_judges([str(tmp_path / "bad.yaml")])


# -------------------------------------------------------------------- the command


def test_words_are_explained(capsys):
    assert main(["evaluate"]) == 0
    assert "rewards" in capsys.readouterr().out
    assert "did you mean 'policies'" in refused(capsys, "polices")
    with pytest.raises(SystemExit):
        main(["evaluate", "ranking", "--help"])
    assert "--baseline" in capsys.readouterr().out
