"""The cache: hit when nothing changed, missed when anything did, never trusted when damaged."""

from __future__ import annotations

import json
import multiprocessing
from dataclasses import replace

import pytest

from lit_align.core.batch import DataKind, Example
from lit_align.data.cache import ExampleCache, cache_key, code_version, source_fingerprint, tokenizer_fingerprint
from lit_align.data.demands import Demands
from lit_align.data.pipeline import Pipeline, Recipe
from lit_align.data.report import DataReport
from lit_align.data.store import ExampleStore, Record, read_store
from tests.data import tokenizers as tk

EXAMPLES = [
    Example(1, [[1, 2, 3], [1, 2, 4, 5]], [2, 2], None, [(0, 1)], [0.5]),
    Example(2, [[7, 8]], [1], [[1]], label=False, reference_logps=[-1.5]),
    Example(5, [[9, 9, 9]], [3], scores=[0.5], timestamp=-1.5, target=0),
]


@pytest.fixture
def source(tmp_path):
    path = tmp_path / "rows.jsonl"
    rows = [{"prompt": f"Q{n}: ", "chosen": f"yes {n}", "rejected": "no"} for n in range(5)]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


@pytest.fixture
def counting(monkeypatch):
    """Counts how often a source is tokenised."""
    calls = []
    records = Pipeline.records

    def counted(self, source, report, **kwargs):
        calls.append(source)
        return records(self, source, report, **kwargs)

    monkeypatch.setattr(Pipeline, "records", counted)
    return calls


def pipeline(recipe=None, tokenizer=None, kind=DataKind.PAIRS, **more):
    return Pipeline(recipe or Recipe(), tokenizer or tk.byte_tokenizer(), kind, **more)


def test_store_gives_back_what_was_put_in():
    store = ExampleStore.from_records(Record(example, 7) for example in EXAMPLES)
    assert list(store) == EXAMPLES
    assert store[-1] == EXAMPLES[-1]
    assert store[1:] == EXAMPLES[1:]
    assert list(store.select([2, 0])) == [EXAMPLES[2], EXAMPLES[0]]
    assert list(store.select([2, 0]).select([1])) == [EXAMPLES[0]]
    assert store.groups == [7, 7, 7]
    assert store.select([1]).sizes[0] == (1, 2, 2, 2)
    assert store.sizes[0] == (2, 4, 7, 5)
    with pytest.raises(IndexError):
        store[3]


def test_store_with_reference_values():
    store = ExampleStore.from_records(Record(example, 0) for example in EXAMPLES)
    assert store[0].reference_logps is None
    assert store[1].reference_logps == [-1.5]
    values = [[-1.0, -2.0], [-3.0], [-4.0]]
    store.set_reference_logps(values)
    assert [example.reference_logps for example in store] == values
    assert store.select([1, 0])[0].reference_logps == [-3.0]


def test_second_time_nothing_is_tokenised(source, tmp_path, counting):
    first, report = pipeline().cached(str(source), tmp_path / "cache")
    again, report_again = pipeline().cached(str(source), tmp_path / "cache")
    assert len(counting) == 1
    assert list(again) == list(first)
    assert report_again.to_dict() == report.to_dict()
    assert report.kept == 5


@pytest.mark.parametrize(
    "change",
    [
        {"recipe": Recipe(max_length=77)},
        {"recipe": Recipe(separator=" ")},
        {"tokenizer": tk.byte_tokenizer(tk.CHATML)},
        {"tokenizer": tk.byte_tokenizer(eos="<|im_end|>")},
        {"tokenizer": tk.merging_tokenizer(["yes no"])},
        {"end_tokens": (5,)},
        {"kind": DataKind.PROMPTS},
        {"recipe": Recipe(convert_args={"seed": 1})},
        {"recipe": Recipe(judgment_template="{judgment}")},
        {"demands": Demands(columns=("target",))},
    ],
    ids=[
        "length",
        "separator",
        "template",
        "eos",
        "vocabulary",
        "end-tokens",
        "kind",
        "convert",
        "judgment",
        "columns",
    ],
)
def test_any_other_setting_is_another_entry(source, tmp_path, counting, change):
    pipeline().cached(str(source), tmp_path / "cache")
    pipeline(**change).cached(str(source), tmp_path / "cache")
    assert len(counting) == 2


def test_other_data_under_the_same_name(source, tmp_path, counting):
    pipeline().cached(str(source), tmp_path / "cache")
    source.write_text(source.read_text().replace("yes 3", "yes, 3"))
    store, _ = pipeline().cached(str(source), tmp_path / "cache")
    assert len(counting) == 2
    assert len(store) == 5


def test_a_copy_is_known_and_reported_under_its_own_name(source, tmp_path, counting):
    pipeline().cached(str(source), tmp_path / "cache")
    copy = source.with_name("copy.jsonl")
    copy.write_bytes(source.read_bytes())
    assert pipeline().cached(str(copy), tmp_path / "cache")[1].source == str(copy)
    assert len(counting) == 1


def test_other_code_is_another_entry(monkeypatch):
    before = cache_key({"a": 1})
    monkeypatch.setattr("lit_align.data.cache.code_version", lambda: "other")
    assert cache_key({"a": 1}) != before


def entry_of(folder):
    (entry,) = [path for path in folder.iterdir() if not path.name.startswith(".")]
    return entry


def damage_meta(entry):
    (entry / "meta.json").write_text("{")


def cut_examples(entry):
    file = entry / "examples.arrow"
    file.write_bytes(file.read_bytes()[:-40])


def flip_a_byte(entry):
    file = entry / "examples.arrow"
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(content)


def remove_examples(entry):
    (entry / "examples.arrow").unlink()


def foreign_key(entry):
    meta = json.loads((entry / "meta.json").read_text())
    (entry / "meta.json").write_text(json.dumps({**meta, "key": "0" * 32}))


def empty_meta(entry):
    (entry / "meta.json").write_text("[]")


@pytest.mark.parametrize("damage", [damage_meta, cut_examples, flip_a_byte, remove_examples, foreign_key, empty_meta])
def test_a_damaged_entry_is_rebuilt(source, tmp_path, counting, damage):
    folder = tmp_path / "cache"
    first = list(pipeline().cached(str(source), folder)[0])
    damage(entry_of(folder))
    store, report = pipeline().cached(str(source), folder)
    assert list(store) == first
    assert report.kept == 5
    assert len(counting) == 2
    pipeline().cached(str(source), folder)
    assert len(counting) == 2
    assert len(list(folder.iterdir())) == 1


def test_nothing_is_left_of_a_failed_attempt(tmp_path):
    def failing():
        yield Record(EXAMPLES[0], 0)
        raise RuntimeError("stop")

    cache = ExampleCache(tmp_path / "cache")
    with pytest.raises(RuntimeError, match="stop"):
        cache.save("k", failing(), DataReport())
    assert list((tmp_path / "cache").iterdir()) == []
    assert cache.load("k") is None


def test_a_file_that_is_no_store_is_refused(tmp_path):
    (tmp_path / "x.arrow").write_bytes(b"nothing")
    with pytest.raises(ValueError, match="Arrow"):
        read_store(tmp_path / "x.arrow")


def _save(folder):
    ExampleCache(folder).save("k", (Record(example, 0) for example in EXAMPLES), DataReport("s", "f"))


def test_processes_that_write_at_once_agree(tmp_path):
    context = multiprocessing.get_context("fork")
    processes = [context.Process(target=_save, args=(tmp_path / "cache",)) for _ in range(4)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(60)
    assert [process.exitcode for process in processes] == [0] * 4
    store, _ = ExampleCache(tmp_path / "cache").load("k")
    assert list(store) == EXAMPLES
    assert len(list((tmp_path / "cache").iterdir())) == 1


def test_fingerprint_of_a_tokenizer_is_that_of_its_content():
    one, other = tk.byte_tokenizer(), tk.byte_tokenizer()
    assert tokenizer_fingerprint(one) == tokenizer_fingerprint(other)
    # Calls leave traces in a tokenizer that do not change what it encodes.
    one("some text", truncation=True, max_length=3, padding="max_length")
    assert tokenizer_fingerprint(one) == tokenizer_fingerprint(other)


def test_fingerprint_of_a_folder(tmp_path):
    (tmp_path / "a.jsonl").write_text("1")
    before = source_fingerprint(tmp_path)
    (tmp_path / "a.jsonl").rename(tmp_path / "b.jsonl")
    renamed = source_fingerprint(tmp_path)
    (tmp_path / "b.jsonl").write_text("2")
    assert len({before, renamed, source_fingerprint(tmp_path)}) == 3


def test_recipe_is_part_of_the_key_whole():
    fields = Recipe.__dataclass_fields__
    assert {"convert", "columns", "max_length", "train_on", "chat_template_kwargs"} <= set(fields)
    keys = {cache_key({"recipe": repr(recipe)}) for recipe in (Recipe(), replace(Recipe(), train_on="last"))}
    assert len(keys) == 2
    assert len(code_version()) == 64
