"""`lit-align judge`: what a judge says, in a file and in a line."""

from __future__ import annotations

import json

import pytest
import yaml

from lit_align.__main__ import main
from tests.judges.conftest import save_reward_model


@pytest.fixture
def reward(folder):
    return save_reward_model(folder / "reward")


def lines(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


def write(path, rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


def test_responses_are_scored(folder, reward, capsys):
    assert main(["judge", "--judge", "RewardModelJudge", "--judge.model", "reward", "--data", "pairs.jsonl"]) == 0
    records = lines(folder / "judged.jsonl")
    assert len(records) == 12
    assert list(records[0]) == ["file", "row", "response", "role", "prompt", "completion", "score", "reason"]
    assert [record["role"] for record in records[:2]] == ["chosen", "rejected"]
    summary = json.loads((folder / "judged.summary.json").read_text())
    better = [c["score"] > r["score"] for c, r in zip(records[::2], records[1::2], strict=True)]
    assert summary["accuracy"] == sum(better) / 6
    assert summary["means"]["chosen"] == pytest.approx(sum(record["score"] for record in records[::2]) / 6)
    printed = capsys.readouterr().out
    assert "12 records: judged.jsonl" in printed
    assert "12 of 12 judged" in printed
    assert "of 6 pairs" in printed


def test_a_file_describes_the_judge(folder, reward, capsys):
    members = [{"class_path": "RewardModelJudge", "init_args": {"model": "reward"}}] * 2
    config = {"class_path": "RewardEnsemble", "init_args": {"judges": members, "combine": "worst"}}
    (folder / "judge.yaml").write_text(yaml.safe_dump(config))
    assert (
        main(["judge", "--judge", "judge.yaml", "--data", "pairs.jsonl", "--out", "deep/out.jsonl", "--limit", "2"])
        == 0
    )
    assert len(lines(folder / "deep" / "out.jsonl")) == 4
    (folder / "all.yaml").write_text(yaml.safe_dump({"judge": config, "data": "pairs.jsonl", "limit": 1}))
    assert main(["judge", "--config", "all.yaml"]) == 0
    assert len(lines(folder / "judged.jsonl")) == 2


def test_pairs_are_compared_in_both_orders(folder, capsys):
    (folder / "engine.py").write_text(
        "from tests.judges.fakes import FakeEngine\n"
        "class Longer(FakeEngine):\n"
        "    def __init__(self):\n"
        "        super().__init__(lambda text, seed: '[[A]]' if 'REPLY A]\\nred' in text else '[[B]]')\n"
    )
    command = ["judge", "--judge", "LLMJudge", "--judge.engine", "engine.Longer", "--data", "pairs.jsonl"]
    assert main(command) == 0
    records = lines(folder / "judged.jsonl")
    names = ["file", "row", "pair", "prompt", "first", "second", "probability", "reason", "orders"]
    assert list(records[0]) == names
    assert [record["orders"] for record in records[:2]] == [[1.0, 1.0], [0.0, 1.0]]
    # The first pair's chosen response wins in both orders; in the others the second place does.
    assert [record["probability"] for record in records] == [1.0, 0.5, 0.5, 0.5, 0.5, 0.5]
    summary = json.loads((folder / "judged.summary.json").read_text())
    assert (summary["accuracy"], summary["ties"]) == (pytest.approx(1 / 6), pytest.approx(5 / 6))
    assert summary["position_bias"]["same_place"] == pytest.approx(5 / 6)
    assert "the same place won in both orders: 83.3 %" in capsys.readouterr().out


def test_pairs_with_a_judge_that_scores(folder, reward):
    assert (
        main(
            [
                "judge",
                "--judge",
                "RewardModelJudge",
                "--judge.model",
                "reward",
                "--data",
                "pairs.jsonl",
                "--pairs",
                "true",
            ]
        )
        == 0
    )
    assert {record["probability"] for record in lines(folder / "judged.jsonl")} <= {0.0, 0.5, 1.0}
    assert all("orders" not in record for record in lines(folder / "judged.jsonl"))


def test_answers_are_checked_against_a_column(folder, capsys):
    rows = [
        {"question": "6 * 7?", "solution": solution, "ground_truth": known, "is_correct": solution.endswith("42")}
        for solution, known in (("so 42", "42"), ("so 41", "42"), ("so 42", "unknown"))
    ]
    write(folder / "solutions.jsonl", rows)
    names = "{prompt: question, completion: solution, label: is_correct}"
    assert main(["judge", "--judge", "NumericMatch", "--data", "solutions.jsonl", "--columns", names]) == 0
    assert [record["score"] for record in lines(folder / "judged.jsonl")] == [1.0, 0.0, None]
    summary = json.loads((folder / "judged.summary.json").read_text())
    assert summary["unjudged"] == {"the data have no answer to compare with": 1}
    assert summary["means"] == {"desirable": 1.0, "undesirable": 0.0}
    assert "2 of 3 judged; the data have no answer to compare with: 1; mean 0.5" in capsys.readouterr().out


def test_all_samples_of_a_prompt_are_judged_together(folder, monkeypatch, capsys):
    monkeypatch.setattr("lit_align.tools.judge_records._CHUNK", 2)
    write(folder / "samples.jsonl", [{"prompt": "p", "completion": text} for text in ("1", "2", "3", "3", "3")])
    assert main(["judge", "--judge", "MajorityVote", "--data", "samples.jsonl"]) == 0
    assert [record["score"] for record in lines(folder / "judged.jsonl")] == [0, 0, 1, 1, 1]
    command = ["judge", "--judge", "RegexMatch", "--judge.pattern", "2|3", "--data", "samples.jsonl"]
    assert main(command) == 2, "these are another judge's"
    assert "other judge" in capsys.readouterr().err
    assert main([*command, "--fresh"]) == 0
    assert [record["score"] for record in lines(folder / "judged.jsonl")] == [0, 1, 1, 1, 1]
    assert not list(folder.glob("*.part"))


def test_a_killed_command_goes_on(folder, monkeypatch, capsys):
    """The file and the summary are those of a command that was left alone."""
    monkeypatch.setattr("lit_align.tools.judge_records._CHUNK", 2)
    monkeypatch.setenv("KILL", "5")
    (folder / "own.py").write_text(
        "import os\n"
        "from lit_align.judges.base import CountingPointwise, Judged\n"
        "class Own(CountingPointwise):\n"
        "    def _score(self, prompts, completions, columns):\n"
        "        self.counts.events['asked for'] += len(prompts)\n"
        "        if self.counts.events['asked for'] > int(os.environ['KILL']):\n"
        "            raise KeyboardInterrupt\n"
        "        return [Judged(float(len(c)) if ' ' in c else None, 'no words') for c in completions]\n"
    )
    command = ["judge", "--judge", "own.Own", "--data", "pairs.jsonl"]
    with pytest.raises(KeyboardInterrupt):
        main(command)
    assert len(lines(folder / "judged.jsonl.part")) == 4
    monkeypatch.setenv("KILL", "100")
    assert main(command) == 0
    assert "going on after 4 of 12" in capsys.readouterr().out
    assert main([*command, "--out", "alone.jsonl"]) == 0
    for end in (".jsonl", ".summary.json"):
        assert (folder / f"judged{end}").read_bytes() == (folder / f"alone{end}").read_bytes()
    assert json.loads((folder / "alone.summary.json").read_text())["events"] == {"asked for": 12}


@pytest.mark.parametrize(
    ("arguments", "what"),
    [
        (["--data", "pairs.jsonl"], "judge"),
        (["--judge", "MajorityVote"], "data must be given"),
        (["--judge", "MajorityVot", "--data", "pairs.jsonl"], "did you mean MajorityVote"),
        (["--judge", "MajorityVote", "--judge.extrac", "all", "--data", "pairs.jsonl"], "extract"),
        (["--judge", "MajorityVote", "--data", "pairs.jsonl", "--outt", "x"], "did you mean out"),
        (["--judge", "MajorityVote", "--data", "none.jsonl"], "none.jsonl"),
        (["--judge", "MajorityVote", "--data", "prompts.jsonl"], "prompts without responses"),
        (["--judge", "NumericMatch", "--data", "pairs.jsonl"], "needs the column 'ground_truth'"),
        (["--judge", "RewardModelJudge", "--judge.model", "model", "--data", "pairs.jsonl"], "no head that scores"),
    ],
)
def test_mistakes(folder, arguments, what, capsys):
    assert main(["judge", *arguments]) == 2
    message = capsys.readouterr().err
    assert what in message
    assert "Traceback" not in message
    assert "Union" not in message
    assert not (folder / "judged.jsonl").exists()


def test_help(capsys):
    with pytest.raises(SystemExit):
        main(["judge", "--help"])
    assert "a function of yours" in capsys.readouterr().out
