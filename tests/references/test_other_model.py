"""Another model as the reference: its values are the plain model's, and no checkpoint holds it."""

from __future__ import annotations

import pytest
import torch

from lit_align import DPO
from lit_align.callbacks import ReferenceSync, RunCheckpoint
from lit_align.core.batch import DataKind, Layout
from lit_align.core.errors import ConfigError
from lit_align.core.policy import LoRASpec
from lit_align.references import FrozenCopy, OtherModel, resolve_reference
from tests.core.oracle import plain_logps
from tests.helpers import save_tiny_model, tiny_model
from tests.methods.scoring import collated, make_examples, ready
from tests.runs import STEPS, train


@pytest.fixture(scope="module")
def other_dir(tmp_path_factory) -> str:
    """A folder with another random model."""
    return save_tiny_model(tmp_path_factory.mktemp("other") / "model", seed=7)


def sums(folder: str) -> torch.Tensor:
    """Log-probabilities of the examples' responses under the plain model of a folder."""
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float64).eval()
    with torch.no_grad():
        return plain_logps(model, make_examples(DataKind.PAIRS))[1]


def test_names_and_folders(tmp_path, monkeypatch, other_dir):
    def resolve(choice: str) -> object:
        return resolve_reference(choice, has_adapters=False, will_refresh=False)

    monkeypatch.chdir(tmp_path)
    for choice in (other_dir, "Qwen/Qwen2.5-0.5B"):
        reference = resolve(choice)
        assert isinstance(reference, OtherModel)
        assert reference.name == choice
    # A name of our own means what it says, whatever stands in the working directory.
    (tmp_path / "frozen_copy").mkdir()
    assert type(resolve("frozen_copy")) is FrozenCopy
    (tmp_path / "teacher").mkdir()
    assert type(resolve("teacher")) is OtherModel
    with pytest.raises(ConfigError, match=r"(?s)reference: pupil.*or the folder or hub name of another model"):
        resolve("pupil")


@pytest.mark.parametrize("lora", [None, LoRASpec(r=2)])
def test_its_values_are_the_plain_models(lora, tiny_model_dir, other_dir):
    module = ready("DPO", tiny_model_dir, reference=other_dir, lora=lora)
    batch = collated(module, make_examples(DataKind.PAIRS), Layout.SHARED)
    values = module.reference.logps(batch.rows).sums
    torch.testing.assert_close(values, sums(other_dir), rtol=1e-6, atol=1e-6)
    assert not torch.allclose(values, sums(tiny_model_dir), rtol=1e-3)
    assert not any(parameter.requires_grad for parameter in module.reference.parameters())
    assert not module.reference.training


def test_building_it_draws_no_random_numbers(tiny_model_dir, other_dir):
    before = torch.get_rng_state()
    ready("DPO", tiny_model_dir, reference=other_dir, moved=False)
    assert torch.equal(torch.get_rng_state(), before)


def test_another_vocabulary_is_refused(tiny_model_dir, tmp_path):
    folder = tmp_path / "wide"
    tiny_model(0, vocab_size=300).save_pretrained(folder)
    with pytest.raises(ConfigError, match=r"(?s)another vocabulary.*300 tokens in .*264"):
        ready("DPO", tiny_model_dir, reference=str(folder))


def test_a_missing_model_is_a_sentence(tiny_model_dir):
    with pytest.raises(ConfigError, match="no/such"):
        ready("DPO", tiny_model_dir, reference="./no/such/folder")


def test_it_cannot_be_refreshed(tiny_model_dir, other_dir, tmp_path):
    with pytest.raises(ConfigError, match=r"(?s)ReferenceSync needs a reference that can change.*OtherModel"):
        train(DPO(policy=tiny_model_dir, reference=other_dir), tmp_path, [ReferenceSync(alpha=1.0, every_n_steps=1)])
    with pytest.raises(ConfigError, match="cannot be refreshed"):
        OtherModel(other_dir).refresh(None, 1.0)


def test_checkpoints_do_not_hold_it_and_runs_go_on(tiny_model_dir, other_dir, tmp_path):
    module = DPO(policy=tiny_model_dir, reference=other_dir, learning_rate=1e-3)
    train(module, tmp_path, [RunCheckpoint(every_n_steps=0)])
    path = tmp_path / "checkpoints" / f"step={STEPS}.ckpt"
    saved = torch.load(path, weights_only=True)["state_dict"]
    assert saved
    assert not any(name.startswith("reference.") for name in saved)
    loaded = DPO.load_from_checkpoint(path, map_location="cpu", weights_only=True)
    assert isinstance(loaded.reference, OtherModel)
    torch.testing.assert_close(loaded.state_dict(), module.state_dict(), rtol=0, atol=0)
    expected = dict(module.reference.named_parameters())
    for name, parameter in loaded.reference.named_parameters():
        torch.testing.assert_close(parameter, expected[name], rtol=0, atol=0)


@pytest.mark.parametrize("lora", [None, LoRASpec(r=2)])
def test_the_second_reference_of_d2o(lora, tiny_model_dir, other_dir):
    module = ready("D2O", tiny_model_dir, positive_reference=other_dir, lora=lora)
    examples = make_examples(DataKind.RANKED)
    batch = collated(module, examples, Layout.SHARED)
    values = module.facts(batch)["positive"]
    assert torch.equal(values.mask, batch.mask)
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(other_dir, dtype=torch.float64).eval()
    with torch.no_grad():
        flat = plain_logps(model, examples)[1]
    torch.testing.assert_close(values.sums[batch.mask], flat[batch.places[batch.mask]], rtol=1e-6, atol=1e-6)
    assert not any(name.startswith(("positive.", "reference.")) for name in module.state_dict())
    # Called again, as by `validate` after `fit`: nothing is loaded anew.
    before = module.positive
    module.configure_model()
    assert module.positive is before


def test_a_checkpoint_of_d2o_comes_back(tiny_model_dir, other_dir, tmp_path):
    module = ready("D2O", tiny_model_dir, positive_reference=other_dir)
    again = ready("D2O", tiny_model_dir, positive_reference=other_dir, moved=False)
    again.load_state_dict(module.state_dict())
    batch = collated(module, make_examples(DataKind.RANKED), Layout.SHARED)
    torch.testing.assert_close(again.terms(batch)["loss"].values, module.terms(batch)["loss"].values)
