"""What `lit-align merge` writes is the base plus the changes of the models."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from lit_align.__main__ import main
from lit_align.callbacks import LoRA, RunCheckpoint
from lit_align.core.errors import ConfigError
from lit_align.core.policy import LoRASpec, PolicySpec, build_policy, load_tokenizer
from lit_align.core.saving import save_policy
from lit_align.functional.merging import ties
from lit_align.methods.dpo import DPO
from lit_align.tools.merge import Recipe, merge
from tests.helpers import save_tiny_model, tiny_model
from tests.runs import train


def weights(folder: str | Path, dtype: torch.dtype = torch.float32) -> dict[str, torch.Tensor]:
    """By transformers alone."""
    return dict(AutoModelForCausalLM.from_pretrained(folder, dtype=dtype).named_parameters())


def moved(base: str, folder: Path, seed: int, **settings) -> str:
    """A model trained from the base: whole, or with `lora` its adapters."""
    policy = build_policy(PolicySpec(base, seed=seed, **settings))
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in policy.parameters():
            if parameter.requires_grad:
                parameter.add_(0.05 * torch.randn(parameter.shape, generator=generator))
    save_policy(policy, load_tokenizer(base), folder, merge="lora" not in settings)
    return str(folder)


@pytest.fixture(scope="module")
def models(tiny_model_dir, tmp_path_factory) -> tuple[str, str, str]:
    """The base, and two models trained from it."""
    folder = tmp_path_factory.mktemp("models")
    return tiny_model_dir, moved(tiny_model_dir, folder / "a", 1), moved(tiny_model_dir, folder / "b", 2)


def test_the_weighted_sum(models, tmp_path, capsys):
    base, a, b = models
    arguments = ["--base", base, "--models", a, b, "--weights", "1", "0.5", "--scale", "2", "--out", "merged"]
    assert main(["merge", *arguments[:-1], str(tmp_path / "merged")]) == 0
    start, one, two, result = map(weights, (base, a, b, tmp_path / "merged"))
    for name, value in result.items():
        expected = start[name] + 2 * ((one[name] - start[name]) + 0.5 * (two[name] - start[name]))
        torch.testing.assert_close(value, expected, rtol=0, atol=1e-6)
    said = capsys.readouterr().out
    assert f"{a}: " in said
    assert "merged: " in said
    assert "read back" in said
    assert AutoTokenizer.from_pretrained(tmp_path / "merged").chat_template
    assert sorted(path.name for path in tmp_path.iterdir()) == ["merged"]


def test_ties(models, tmp_path):
    base, a, b = models
    result = merge(base, [a, b], tmp_path / "merged", Recipe([1.0, 2.0], "ties", density=0.2))
    start, one, two, merged = map(weights, (base, a, b, tmp_path / "merged"))
    for name, value in merged.items():
        change = ties([one[name] - start[name], two[name] - start[name]], [1.0, 2.0], 0.2)
        torch.testing.assert_close(value, start[name] + change, rtol=0, atol=1e-6)
    assert 0.6 < result.result.unchanged < 0.7
    distance = sum((one[name] - start[name]).double().square().sum() for name in one) ** 0.5
    assert result.models[0].norm == pytest.approx(distance.item(), rel=1e-6)


def test_dare_ties_follows_the_seed(models, tmp_path):
    base, a, b = models
    for name, seed in (("first", 1), ("again", 1), ("other", 2)):
        merge(base, [a, b], tmp_path / name, Recipe([1.0, 1.0], "dare_ties", density=0.3, seed=seed))
    first, again, other = (weights(tmp_path / name) for name in ("first", "again", "other"))
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert not any(torch.equal(first[name], other[name]) for name in first)


def test_adapters_and_whole_models_go_together(models, tiny_model_dir, tmp_path):
    base, a, _ = models
    adapter = moved(tiny_model_dir, tmp_path / "adapter", 3, lora=LoRASpec(r=2))
    assert not list((tmp_path / "adapter").glob("model*"))
    merge(base, [a, adapter], tmp_path / "merged", Recipe([1.0, 1.0]))
    both = build_policy(PolicySpec(adapter))
    start, one, result = weights(base), weights(a), weights(tmp_path / "merged")
    for name, value in both.named_parameters():
        torch.testing.assert_close(result[name], one[name] + value.detach() - start[name], rtol=0, atol=1e-6)


@pytest.mark.parametrize("lora", [False, True])
def test_a_run_counts_with_its_newest_checkpoint(lora, tiny_model_dir, tmp_path, capsys):
    callbacks = [RunCheckpoint(every_n_steps=4)] + ([LoRA(r=2)] if lora else [])
    module = DPO(policy=tiny_model_dir, learning_rate=1e-2)
    train(module, tmp_path / "run", callbacks)
    merge(tiny_model_dir, [str(tmp_path / "run")], tmp_path / "merged", Recipe([1.0]))
    trained = module.policy.model
    if lora:
        trained = trained.merge_and_unload()
    result, start = weights(tmp_path / "merged"), weights(tiny_model_dir)
    for name, value in trained.named_parameters():
        torch.testing.assert_close(result[name], value.detach(), rtol=0, atol=1e-6)
    assert any((result[name] - start[name]).abs().max() > 1e-3 for name in result)


def test_sixteen_bit_weights_are_merged_before_they_are_rounded(tmp_path):
    base = str(tmp_path / "base")
    save_tiny_model(Path(base))
    tiny_model(0, torch.bfloat16).save_pretrained(base)
    adapter = moved(base, tmp_path / "adapter", 3, lora=LoRASpec(r=2), dtype="float32")
    merge(base, [adapter] * 3, tmp_path / "merged", Recipe([1.0, 1.0, 1.0]))
    start, result = weights(base), weights(tmp_path / "merged", "auto")
    exact = dict(build_policy(PolicySpec(adapter)).named_parameters())
    assert all(value.dtype is torch.bfloat16 for value in result.values())
    for name, value in result.items():
        assert torch.equal(value, (start[name] + 3 * (exact[name].detach() - start[name])).to(torch.bfloat16)), name


def test_tied_weights_stay_tied(tmp_path):
    base = save_tiny_model(tmp_path / "tied", tie_word_embeddings=True)
    one = moved(base, tmp_path / "one", 1)
    merge(base, [one, one], tmp_path / "merged", Recipe([0.5, 0.5]))
    result = AutoModelForCausalLM.from_pretrained(tmp_path / "merged", dtype=torch.float32)
    assert result.lm_head.weight is result.model.embed_tokens.weight
    torch.testing.assert_close(result.lm_head.weight, weights(one)["model.embed_tokens.weight"], rtol=0, atol=1e-6)


class TestMistakes:
    def test_another_architecture(self, models, tmp_path):
        other = save_tiny_model(tmp_path / "wide", intermediate_size=64)
        with pytest.raises(
            ConfigError, match=r"not of the base's form(?s:.*)down_proj(?s:.*)\(32, 64\)(?s:.*)\(32, 48\)"
        ):
            merge(models[0], [models[1], other], tmp_path / "merged", Recipe([1.0, 1.0]))
        assert not (tmp_path / "merged").exists()
        assert [path.name for path in tmp_path.iterdir()] == ["wide"]

    @pytest.mark.parametrize(
        ("recipe", "fix"),
        [
            (Recipe([1.0]), "one weight for each model"),
            (Recipe([1.0, 1.0], "median"), "one of linear, ties, dare_ties"),
            (Recipe([1.0, 1.0], "ties", density=0.0), "above 0"),
            (Recipe([1.0, -1.0], "ties"), "election of signs"),
            (Recipe([1.0, float("nan")]), "finite"),
        ],
    )
    def test_recipes_out_of_range(self, recipe, fix, models, tmp_path):
        with pytest.raises(ConfigError, match=rf"(?s)fix:.*{fix}"):
            merge(models[0], models[1:], tmp_path / "merged", recipe)

    def test_a_folder_in_use(self, models, tmp_path):
        (tmp_path / "file").write_text("here")
        with pytest.raises(ConfigError, match="in use"):
            merge(models[0], models[1:], tmp_path, Recipe([1.0, 1.0]))

    def test_a_run_without_a_checkpoint(self, models, tmp_path):
        (tmp_path / "run" / "checkpoints").mkdir(parents=True)
        with pytest.raises(ConfigError, match="no complete checkpoint"):
            merge(models[0], [str(tmp_path / "run")], tmp_path / "merged", Recipe([1.0]))

    @pytest.mark.parametrize(
        ("arguments", "what"),
        [
            (["--base", "x", "--models", "y"], "--out must be given"),
            (["--model", "x"], "did you mean models?"),
            (["--base", "x", "--models", "y", "--out", "z", "--method", "median"], "median"),
        ],
    )
    def test_wrong_arguments(self, arguments, what, capsys):
        assert main(["merge", *arguments]) == 2
        assert what in capsys.readouterr().err
