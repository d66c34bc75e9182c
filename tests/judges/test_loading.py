"""Judges out of configurations."""

from __future__ import annotations

import copy
import json
import re
from pathlib import Path

import pytest
import yaml

from lit_align.core.errors import ConfigError
from lit_align.judges import judge_from_config
from lit_align.rollouts.hf_engine import HFEngine


def make(name, **arguments):
    return judge_from_config({"class_path": name, "init_args": arguments})


def test_a_class_by_its_short_name():
    judge = make("NumericMatch", tolerance=0.01)
    assert (type(judge).__name__, judge.tolerance) == ("NumericMatch", 0.01)


def test_settings_of_the_model_stand_beside_those_of_the_judge():
    judge = make("RewardModelJudge", model="folder", batch_size=4, dtype="bfloat16", standardise_on=[0.5, 2])
    assert (judge.model.name, judge.model.batch_size, judge.model.dtype) == ("folder", 4, "bfloat16")
    assert judge.standardise_on == (0.5, 2)


def test_judges_in_judges():
    members = [{"class_path": "RewardModelJudge", "init_args": {"model": name}} for name in ("a", "b")]
    judge = make("RewardEnsemble", judges=members, combine="uncertainty", standardise=[[0, 1], [1, 2]])
    assert [member.model.name for member in judge.parts()] == ["a", "b"]
    vote = make("JudgeVote", judges=[members[0], {"class_path": "LLMJudge", "init_args": {"engine": "c"}}])
    assert [type(part).__name__ for part in vote.parts()] == ["RewardModelJudge", "LLMJudge"]


def test_a_configuration_stays_as_it_is():
    """It is a key of files that are kept."""
    inner = {"class_path": "RewardModelJudge", "init_args": {"model": "a"}}
    config = {"class_path": "LengthPenalised", "init_args": {"judge": inner, "target": 5}}
    before = copy.deepcopy(config)
    assert type(judge_from_config(config)) is type(judge_from_config(config))
    assert json.dumps(config) == json.dumps(before)


def test_an_engine_by_name_or_with_settings():
    for engine in ("folder", {"class_path": "HFEngine", "init_args": {"model": "folder"}}):
        judge = make("SelfJudge", engine=engine, as_chat=False)
        assert isinstance(judge.engine, HFEngine)
        assert judge.engine.name == "folder"


def test_an_engine_of_ones_own():
    judge = make("LLMJudge", engine={"class_path": "tests.judges.fakes.FakeEngine"})
    assert type(judge.engine).__name__ == "FakeEngine"


def test_a_judge_of_ones_own():
    assert type(make("tests.judges.fakes.Lengths")).__name__ == "Lengths"


@pytest.mark.parametrize("text", ["judge:\n  class_path: MajorityVote\n", "class_path: MajorityVote\n"])
def test_a_file(tmp_path, text):
    path = tmp_path / "judge.yaml"
    path.write_text(text)
    for given in (path, str(path)):
        assert type(judge_from_config(given)).__name__ == "MajorityVote"


@pytest.mark.parametrize(
    ("config", "what", "fix"),
    [
        ({"class_path": "NumericMatc"}, "no judge 'NumericMatc'", "did you mean NumericMatch"),
        (
            {"class_path": "NumericMatch", "init_args": {"tolerence": 1}},
            "NumericMatch has no setting 'tolerence'",
            "tolerance",
        ),
        (
            {"class_path": "RewardModelJudge", "init_args": {"model": "a", "batchsize": 1}},
            "no setting 'batchsize'",
            "batch_size",
        ),
        ({"class_path": "NumericMatch", "init_args": {"tolerance": "much"}}, "tolerance must be of the type float", ""),
        ({"class_path": "NumericMatch", "init_args": {"tolerance": -1}}, "out of range", "0 or more"),
        ({"class_path": "RewardModelJudge"}, "RewardModelJudge needs model", "init_args"),
        ({"class_path": "Judge"}, "can be built", "subclasses"),
        ({"class_path": "RewardEnsemble", "init_args": {"judges": [{"class_path": "Foo"}]}}, "no judge 'Foo'", ""),
    ],
)
def test_mistakes_are_said_plainly(config, what, fix):
    with pytest.raises(ConfigError) as error:
        judge_from_config(config)
    assert what in str(error.value)
    assert fix in error.value.fix
    assert "Union" not in str(error.value)


@pytest.mark.parametrize(("text", "what"), [("a: [", "not YAML"), ("- a", "no mapping"), (None, "no such file")])
def test_files_that_will_not_do(tmp_path, text, what):
    path = tmp_path / "judge.yaml"
    if text is not None:
        path.write_text(text)
    with pytest.raises(ConfigError, match=what):
        judge_from_config(path)


def test_the_judges_of_the_readme_are_judges():
    text = (Path(__file__).parents[2] / "README.md").read_text(encoding="utf-8")
    (block,) = (part for part in re.findall(r"```yaml\n(.*?)```", text, re.DOTALL) if "RewardEnsemble" in part)
    judges = {name: judge_from_config(given) for name, given in yaml.safe_load(block).items()}
    assert {name: type(judge).__name__ for name, judge in judges.items()} == {
        "helpful": "RewardEnsemble",
        "correct": "NumericMatch",
        "prefers": "LLMJudge",
    }
