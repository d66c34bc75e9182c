"""What was generated, counted and shown."""

from __future__ import annotations

import io

import pytest
from jsonargparse import ArgumentParser
from rich.console import Console

from lit_align.core.forward import Scorer
from lit_align.rollouts.counts import GenerationCounts
from lit_align.rollouts.engine import Completion, Engine, PromptError
from lit_align.rollouts.hf_engine import HFEngine
from lit_align.rollouts.progress import generation_bar
from tests.helpers import build_tiny_tokenizer, tiny_model

DONE = [
    Completion("a", "text", [5, 6, 2], True),
    Completion("a", " \n", [7, 2], True),
    Completion("b", "more", [5, 6, 7, 8], False),
]


@pytest.fixture
def engine():
    return HFEngine.of(Scorer(tiny_model()), build_tiny_tokenizer(), batch_size=2)


def test_counts():
    counts = GenerationCounts()
    assert (counts.tokens_per_second, counts.mean_tokens) == (0.0, 0.0)
    counts.add(DONE, prompts=2, seconds=1.5)
    assert counts == GenerationCounts(2, 3, 9, 1.5, empty=1, unfinished=1)
    assert (counts.tokens_per_second, counts.mean_tokens) == (6.0, 3.0)
    assert counts.to_dict()["tokens_per_second"] == 6.0
    assert str(counts) == "6 tokens/s, 3 tokens on average, 1 empty, 1 unfinished"


def test_an_engine_counts(engine):
    found = engine.generate(["a", "b"], samples=3, max_new_tokens=2)
    assert (engine.counts.prompts, engine.counts.completions) == (2, 6)
    assert engine.counts.tokens == sum(len(one.ids) for one in found)
    assert engine.counts.seconds > 0
    with pytest.raises(PromptError):
        engine.generate(["a", ""])
    assert (engine.counts.completions, engine.counts.refused) == (6, 1)


def test_the_bar_shows_speed_and_length(engine):
    screen = Console(file=io.StringIO(), force_terminal=True, width=160)
    with generation_bar("round 1", 6, engine, console=screen):
        engine.generate(["a", "b"], samples=3, max_new_tokens=2)
    written = screen.file.getvalue()
    assert "round 1" in written
    assert "6/6" in written
    assert "tokens/s, 2 tokens on average" in written
    assert engine.progress is None


def test_what_is_generated_elsewhere_is_reported_by_hand():
    screen = Console(file=io.StringIO(), force_terminal=True, width=160)
    with generation_bar("candidates", 3, console=screen) as report:
        report(DONE)
    assert "3/3" in screen.file.getvalue()
    assert "1 empty, 1 unfinished" in screen.file.getvalue()


def test_without_a_terminal_nothing_is_shown(engine, capsys):
    with generation_bar("round 1", 2, engine) as report:
        engine.generate(["a"], max_new_tokens=2)
        report(DONE)
    assert engine.progress is None
    assert capsys.readouterr() == ("", "")


def test_an_engine_is_let_go_after_a_failure(engine):
    with pytest.raises(PromptError), generation_bar("round 1", 2, engine):
        engine.generate([""])
    assert engine.progress is None


@pytest.mark.parametrize(
    ("name", "settings"),
    [
        ("hf_engine.HFEngine", {"model": "folder"}),
        ("vllm_engine.VLLMEngine", {"model": "folder", "options": {"enforce_eager": True}}),
        ("server_engine.ServerEngine", {"url": "http://localhost:8000", "tokenizer": "folder"}),
    ],
)
def test_engines_can_be_named_in_a_configuration(name, settings):
    parser = ArgumentParser(exit_on_error=False)
    parser.add_argument("--engine", type=Engine)
    config = {"engine": {"class_path": f"lit_align.rollouts.{name}", "init_args": settings}}
    made = parser.instantiate_classes(parser.parse_object(config)).engine
    assert type(made).__name__ == name.rpartition(".")[2]
