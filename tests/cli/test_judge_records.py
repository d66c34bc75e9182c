"""Records of a judge that was killed: the next call goes on, and knows what the first had counted."""

from __future__ import annotations

import json

import pytest

from lit_align.core.errors import ConfigError
from lit_align.judges import JudgeVote, LLMJudge, MajorityVote
from lit_align.judges.items import read_items
from lit_align.tools.judge_records import judge_all
from tests.judges.fakes import FakeEngine

CONFIG = {"class_path": "LLMJudge"}


@pytest.fixture
def items(tmp_path, monkeypatch):
    """Ten pairs, in chunks of four."""
    monkeypatch.setattr("lit_align.tools.judge_records._CHUNK", 4)
    rows = [{"prompt": f"number {n}", "chosen": f"yes {n}", "rejected": f"no {n}"} for n in range(10)]
    (tmp_path / "pairs.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return read_items(str(tmp_path / "pairs.jsonl"), pairs=True)


class Engine(FakeEngine):
    """Takes the first place for most pairs, and is killed at a question about one."""

    def __init__(self, dies_at: int | None = None) -> None:
        super().__init__(self.answer)
        self.dies_at = dies_at

    def answer(self, text, seed):
        number = int(text.partition("number ")[2].split()[0])
        if number == self.dies_at:
            raise KeyboardInterrupt
        if number == 7:
            return "I do not know."
        right = "A" if f"REPLY A]\nyes {number}" in text else "B"
        return f"[[{right if number in (0, 5, 9) else 'A'}]]"


def make(engine, votes=False):
    return JudgeVote([LLMJudge(engine), LLMJudge(engine, disagreement="mean")]) if votes else LLMJudge(engine)


def plain(judge):
    return json.loads(json.dumps(judge.memory()))


def kill(items, out, votes=False, dies_at=6):
    with pytest.raises(KeyboardInterrupt):
        judge_all(make(Engine(dies_at), votes), CONFIG, items, out)
    assert not out.exists()
    assert len(out.with_name("out.jsonl.part").read_text().splitlines()) == 4


@pytest.mark.parametrize("votes", [False, True], ids=["one judge", "judges in a judge"])
def test_facts_are_those_of_all_items(votes, items, tmp_path):
    alone = make(Engine(), votes)
    records = judge_all(alone, CONFIG, items, tmp_path / "alone.jsonl")
    kill(items, tmp_path / "out.jsonl", votes)
    engine = Engine()
    judge = make(engine, votes)
    assert judge_all(judge, CONFIG, items, tmp_path / "out.jsonl") == records
    assert (tmp_path / "out.jsonl").read_bytes() == (tmp_path / "alone.jsonl").read_bytes()
    assert len(engine.asked) == 6 * 2 * (1 + votes), "the rest, in both orders"
    assert plain(judge) == plain(alone)
    assert judge.counts.to_dict() == alone.counts.to_dict()
    one = judge.judges[0] if votes else judge
    assert one.position_bias == (9, (6 * 2 + 3) / 18, 3 / 9, 6 / 9)


def test_what_is_finished_is_known(items, tmp_path):
    first, engine = make(Engine()), Engine(dies_at=0)
    records = judge_all(first, CONFIG, items, tmp_path / "out.jsonl")
    again = make(engine)
    assert judge_all(again, CONFIG, items, tmp_path / "out.jsonl") == records
    assert engine.asked == []
    assert again.facts() == first.facts()


def test_a_kill_between_memory_and_records(items, tmp_path):
    """The memory has gone on to eight items then, of which a part was written."""
    alone, judge, out = make(Engine()), make(Engine()), tmp_path / "out.jsonl"
    judge_all(alone, CONFIG, items, tmp_path / "alone.jsonl")
    with pytest.raises(KeyboardInterrupt):
        judge_all(make(Engine(dies_at=8)), CONFIG, items, out)
    part = tmp_path / "out.jsonl.part"
    part.write_bytes(b"".join(part.read_bytes().splitlines(keepends=True)[:6]) + b'{"file')
    judge_all(judge, CONFIG, items, out)
    assert out.read_bytes() == (tmp_path / "alone.jsonl").read_bytes()
    assert plain(judge) == plain(alone)


class TestSomethingElse:
    """Nothing of other settings or items is mixed in, or lost without being asked for."""

    @pytest.fixture(params=[True, False], ids=["killed", "finished"])
    def out(self, request, items, tmp_path):
        out = tmp_path / "out.jsonl"
        if request.param:
            kill(items, out)
        else:
            judge_all(make(Engine()), CONFIG, items, out)
        return out

    def test_other_settings(self, items, out):
        other = {**CONFIG, "init_args": {"seed": 1}}
        with pytest.raises(ConfigError, match=r"something else[\s\S]*other judge[\s\S]*--fresh"):
            judge_all(make(Engine()), other, items, out)
        engine = Engine()
        judge_all(make(engine), other, items, out, fresh=True)
        assert len(engine.asked) == 20

    def test_other_items(self, items, out):
        items.items[3] = items.items[3]._replace(texts=("yes 3!", "no 3"))
        with pytest.raises(ConfigError, match="other items"):
            judge_all(make(Engine()), CONFIG, items, out)

    def test_a_lost_memory(self, items, out):
        out.with_name("out.jsonl.memory.json").unlink()
        with pytest.raises(ConfigError, match="what the judge had counted is lost"):
            judge_all(make(Engine()), CONFIG, items, out)


def test_a_judge_that_needs_all_samples_begins_anew(tmp_path, monkeypatch):
    monkeypatch.setattr("lit_align.tools.judge_records._CHUNK", 2)
    rows = [{"prompt": "p", "completion": text} for text in ("1", "2", "2", "2")]
    (tmp_path / "samples.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    items = read_items(str(tmp_path / "samples.jsonl"))
    first = MajorityVote()
    records = judge_all(first, CONFIG, items, tmp_path / "out.jsonl")
    assert [record["score"] for record in records] == [0, 1, 1, 1]
    again = MajorityVote()
    assert judge_all(again, CONFIG, items, tmp_path / "out.jsonl") == records
    assert again.facts() == first.facts() == {"mean_majority_share": 0.75}
