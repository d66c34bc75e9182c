"""Files are made once, go on after a kill, and never mix with what was made from something else."""

from __future__ import annotations

import pytest

from lit_align.core.errors import ConfigError
from lit_align.evaluation.compare_data import policy_fingerprint
from lit_align.evaluation.kept_files import keep, with_fingerprints


class Maker:
    """Makes numbered records, and may be killed before a place."""

    def __init__(self, dies_at: int | None = None) -> None:
        self.made: list[int] = []
        self.dies_at = dies_at

    def __call__(self, places):
        if self.dies_at in places:
            raise KeyboardInterrupt
        self.made += places
        return [{"number": place} for place in places]


def test_a_finished_file_is_not_made_again(tmp_path):
    path, first, second = tmp_path / "deep" / "x.jsonl", Maker(), Maker()
    records = keep(path, {"a": 1}, 5, first, chunk=2)
    assert records == [{"number": n} for n in range(5)]
    assert keep(path, {"a": 1}, 5, second, chunk=2) == records
    assert second.made == []
    assert sorted(file.name for file in path.parent.iterdir()) == ["x.jsonl", "x.jsonl.key.json"]


def test_a_killed_run_goes_on(tmp_path, capsys):
    path, second = tmp_path / "x.jsonl", Maker()
    with pytest.raises(KeyboardInterrupt):
        keep(path, {"a": 1}, 7, Maker(dies_at=5), chunk=2)
    assert not path.exists(), "a partial file never counts"
    # Half a line, and half a chunk, as a kill may leave.
    part = tmp_path / "x.jsonl.part"
    part.write_text(part.read_text() + '{"number": 4}\n{"num')
    assert keep(path, {"a": 1}, 7, second, chunk=2) == [{"number": n} for n in range(7)]
    assert second.made == [4, 5, 6]
    assert "going on after 4 of 7" in capsys.readouterr().out


def test_a_part_of_something_else_is_not_gone_on_with(tmp_path):
    path, second = tmp_path / "x.jsonl", Maker()
    with pytest.raises(KeyboardInterrupt):
        keep(path, {"a": 1}, 7, Maker(dies_at=5), chunk=2)
    keep(path, {"a": 2}, 7, second, chunk=2)
    assert second.made == list(range(7))


def test_other_settings_are_refused_unless_asked_for(tmp_path):
    path, second = tmp_path / "x.jsonl", Maker()
    keep(path, {"a": 1, "b": [1]}, 2, Maker(), chunk=2)
    with pytest.raises(ConfigError, match="something else") as caught:
        keep(path, {"a": 2, "b": [1]}, 2, second, chunk=2)
    assert "other a" in str(caught.value)
    keep(path, {"a": 2, "b": [1]}, 2, second, chunk=2, overwrite=True)
    assert second.made == [0, 1]
    third = Maker()
    keep(path, {"a": 2, "b": [1]}, 2, third, chunk=2, overwrite=True)
    assert third.made == [], "what is as it should be stays"


def test_a_file_that_was_changed_is_refused(tmp_path):
    path = tmp_path / "x.jsonl"
    keep(path, {}, 2, Maker(), chunk=2)
    path.write_text('{"number": 9}\n')
    with pytest.raises(ConfigError, match="something else") as caught:
        keep(path, {}, 2, Maker(), chunk=2)
    assert "changed since it was made" in str(caught.value)


def test_a_file_without_its_key_does_not_count(tmp_path):
    path, second = tmp_path / "x.jsonl", Maker()
    keep(path, {}, 2, Maker(), chunk=2)
    (tmp_path / "x.jsonl.key.json").unlink()
    keep(path, {}, 2, second, chunk=2)
    assert second.made == [0, 1]


def test_paths_in_settings_count_with_their_content(tmp_path):
    folder, file = tmp_path / "model", tmp_path / "rules.py"
    folder.mkdir()
    (folder / "weights").write_text("1")
    file.write_text("one")
    settings = {"class_path": "X", "init_args": {"model": str(folder), "files": [str(file)], "n": 1}}
    before = with_fingerprints(settings)
    assert with_fingerprints(settings) == before
    (folder / "weights").write_text("2")
    after = with_fingerprints(settings)
    assert after["init_args"]["model"] != before["init_args"]["model"]
    file.write_text("two")
    assert with_fingerprints(settings)["init_args"]["files"] != before["init_args"]["files"]
    assert before["class_path"] == "X"


def test_code_and_templates_of_a_judge(tmp_path):
    """A function is named with its file; a template may be longer than any path."""
    file = tmp_path / "rules.py"
    file.write_text("one")
    settings = {"path": f"{file}:score", "template": "long " * 2000, "pattern": "a:b"}
    before = with_fingerprints(settings)
    file.write_text("two")
    after = with_fingerprints(settings)
    assert before["path"] != after["path"]
    assert (after["template"], after["pattern"]) == (settings["template"], "a:b")


def test_a_model_that_was_changed_in_the_middle_only(tmp_path):
    """As where an adapter was merged: embeddings stand at the beginning of the file, the last norm at its end."""
    weights = bytearray(6 << 20)
    (tmp_path / "model.safetensors").write_bytes(weights)
    before = policy_fingerprint(str(tmp_path))
    weights[2 << 20 : 4 << 20] = bytes([1]) * (2 << 20)
    (tmp_path / "model.safetensors").write_bytes(weights)
    assert policy_fingerprint(str(tmp_path)) != before
