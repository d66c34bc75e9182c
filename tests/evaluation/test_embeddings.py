"""Embeddings are means of the states that the plain model computes; projections are what algebra says."""

from __future__ import annotations

import builtins

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from lit_align.core.errors import ConfigError, DataError
from lit_align.evaluation.document import Document
from lit_align.evaluation.embeddings import CAPTION, add_embeddings, embed, pca, tsne


def test_vectors_are_means_over_the_response(tiny_model_dir):
    vectors, kept, unread = embed(tiny_model_dir, ["Hello ", "A longer prompt "], ["there", "my friend"])
    assert (kept, unread) == ([0, 1], 0)
    model, tokenizer = (kind.from_pretrained(tiny_model_dir) for kind in (AutoModelForCausalLM, AutoTokenizer))
    model.eval()
    for vector, prompt, response in zip(vectors, ["Hello ", "A longer prompt "], ["there", "my friend"], strict=True):
        before = tokenizer(prompt)["input_ids"]
        ids = before + tokenizer(response, add_special_tokens=False)["input_ids"] + [tokenizer.eos_token_id]
        with torch.no_grad():
            states = model.model(input_ids=torch.tensor([ids])).last_hidden_state[0]
        torch.testing.assert_close(vector.float(), states[len(before) :].mean(0), rtol=1e-4, atol=1e-5)


def test_principal_components():
    generator = torch.Generator().manual_seed(0)
    plane = torch.randn(50, 2, generator=generator, dtype=torch.float64) * torch.tensor([5.0, 1.0])
    basis = torch.linalg.qr(torch.randn(6, 6, generator=generator, dtype=torch.float64)).Q[:2]
    points = pca(plane @ basis + 3)
    assert torch.cdist(points, points) == pytest.approx(torch.cdist(plane, plane), abs=1e-6)
    assert points.mean(0) == pytest.approx(torch.zeros(2), abs=1e-9)
    assert points[:, 0].var() > points[:, 1].var()
    torch.testing.assert_close(pca((plane @ basis).flip(0)).flip(0), points)


def test_a_figure_with_its_caption(tiny_model_dir):
    document = Document("rewards", "t", 0)
    groups = {"chosen": (["p "] * 3, ["one", "two", "three"]), "rejected": (["p "] * 3, ["four", "five", "six"])}
    add_embeddings(document, tiny_model_dir, groups)
    (figure,) = document.figures
    assert figure["kind"] == "scatter"
    assert {name: len(points) for name, points in figure["series"].items()} == {"chosen": 3, "rejected": 3}
    assert figure["note"].startswith(CAPTION)
    assert "not separate is to be expected" in CAPTION
    with pytest.raises(DataError, match="too few"):
        add_embeddings(document, tiny_model_dir, {"one": (["p "], ["r"])})


def test_tsne_without_scikit_learn_says_what_to_do(monkeypatch):
    importing = builtins.__import__

    def without(name, *args, **kwargs):
        if name.startswith("sklearn"):
            raise ImportError("No module named 'sklearn'")
        return importing(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(ConfigError, match="needs scikit-learn") as caught:
        tsne(torch.randn(9, 3))
    assert "pip install scikit-learn" in str(caught.value)


def test_tsne_is_the_same_every_time():
    pytest.importorskip("sklearn")
    vectors = torch.randn(40, 8, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    first = tsne(vectors, seed=1)
    assert first.shape == (40, 2)
    torch.testing.assert_close(first, tsne(vectors, seed=1))
