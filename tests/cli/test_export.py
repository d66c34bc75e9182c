"""What `lit-align export` writes is what was trained, as anybody's transformers or PEFT reads it."""

from __future__ import annotations

import json
import logging
import shutil
import warnings
from pathlib import Path

import lightning as L
import pytest
import torch
from peft import AutoPeftModelForCausalLM, PeftModel
from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification, AutoTokenizer

from lit_align.__main__ import main
from lit_align.callbacks import LoRA, QLoRA, RunCheckpoint
from lit_align.core.batch import Example, Layout
from lit_align.core.errors import ConfigError
from lit_align.core.forward import RewardScorer
from lit_align.core.fsdp2 import FSDP2Strategy
from lit_align.core.layout import build_rows
from lit_align.core.policy import LoRASpec, PolicySpec, QuantizationSpec, build_policy, load_tokenizer
from lit_align.core.saving import save_policy
from lit_align.core.score_padding import score_padding
from lit_align.data.module import PreferenceDataModule
from lit_align.methods.bradley_terry import BradleyTerry
from lit_align.methods.dpo import DPO
from lit_align.tools.export import read_checkpoint, restored_policy, saved_spec
from tests.helpers import save_tiny_model
from tests.launch import launch
from tests.runs import train, write_pairs

IDS = torch.tensor([[1, 40, 50, 60, 70, 80, 90, 100]])
LORA = LoRASpec(r=4)


def outputs(model) -> torch.Tensor:
    """Log-probabilities of all next tokens, or scores."""
    with torch.no_grad():
        logits = model.eval()(input_ids=IDS).logits
    return logits.log_softmax(-1) if logits.shape[-1] > 1 else logits


def trained(folder: str, **settings):
    """A policy all of whose trainable weights have moved."""
    policy = build_policy(PolicySpec(folder, seed=1, **settings))
    generator = torch.Generator().manual_seed(2)
    with torch.no_grad():
        for parameter in policy.parameters():
            if parameter.requires_grad:
                parameter.add_(torch.randn(parameter.shape, generator=generator) * 0.1)
    return policy


@pytest.fixture(scope="module")
def tied_dir(tmp_path_factory) -> str:
    return save_tiny_model(tmp_path_factory.mktemp("tied") / "model", tie_word_embeddings=True)


@pytest.fixture
def tokenizer(tiny_model_dir):
    return load_tokenizer(tiny_model_dir)


class TestRoundTrips:
    """Float32 throughout; log-probabilities equal within 5e-5 nats."""

    @pytest.mark.parametrize("tied", [False, True])
    @pytest.mark.parametrize(
        "settings",
        [
            {},
            {"lora": LORA},
            {"lora": LoRASpec(r=4, rank_stabilised=True, dropout=0.1)},
            {"lora": LoRASpec(r=4, target_modules=("q_proj", "lm_head"))},
            {"lora": LoRASpec(r=4, modules_to_save=("lm_head",))},
            {"lora": LORA, "quantization": QuantizationSpec()},
            {"lora": LORA, "quantization": QuantizationSpec(kind="fp4", double=False)},
        ],
        ids=["full", "lora", "rslora", "lora on the head", "whole head", "nf4", "fp4"],
    )
    def test_whole_models(self, settings, tied, tiny_model_dir, tied_dir, tokenizer, tmp_path):
        policy = trained(tied_dir if tied else tiny_model_dir, **settings)
        before = {name: p.detach().clone() for name, p in policy.named_parameters()}
        saved = save_policy(policy, tokenizer, tmp_path / "out")
        plain = AutoModelForCausalLM.from_pretrained(tmp_path / "out")
        assert saved.merged
        assert saved.largest_change < 5e-5
        assert policy.training
        assert all(torch.equal(before[name], p) for name, p in policy.named_parameters())
        torch.testing.assert_close(outputs(plain), outputs(policy), atol=5e-5, rtol=0)
        assert plain.config.use_cache

    @pytest.mark.parametrize("tied", [False, True])
    def test_adapters_only(self, tied, tiny_model_dir, tied_dir, tokenizer, tmp_path):
        policy = trained(tied_dir if tied else tiny_model_dir, lora=LORA)
        saved = save_policy(policy, tokenizer, tmp_path / "out", merge=False)
        assert not saved.merged
        assert {path.name for path in saved.folder.glob("*.safetensors")} == {"adapter_model.safetensors"}
        torch.testing.assert_close(
            outputs(AutoPeftModelForCausalLM.from_pretrained(saved.folder)), outputs(policy), atol=5e-5, rtol=0
        )
        # The folder is a policy to go on from, too.
        torch.testing.assert_close(
            outputs(build_policy(PolicySpec(str(saved.folder)))), outputs(policy), atol=5e-5, rtol=0
        )

    def test_adapters_of_4_bit_weights(self, tiny_model_dir, tokenizer, tmp_path):
        policy = trained(tiny_model_dir, lora=LORA, quantization=QuantizationSpec())
        assert save_policy(policy, tokenizer, tmp_path / "out", merge=False).largest_change < 5e-5

    @pytest.mark.parametrize(
        "settings",
        [{}, {"lora": LORA}, {"lora": LORA, "quantization": QuantizationSpec()}],
        ids=["full", "lora", "nf4"],
    )
    def test_reward_models(self, settings, tiny_model_dir, tokenizer, tmp_path):
        policy = trained(tiny_model_dir, head="reward", **settings)
        save_policy(policy, tokenizer, tmp_path / "out")
        plain = AutoModelForSequenceClassification.from_pretrained(tmp_path / "out")
        torch.testing.assert_close(outputs(plain), outputs(policy), atol=5e-5, rtol=0)
        assert plain.config.num_labels == 1
        assert plain(input_ids=IDS.repeat(2, 1)).logits.shape == (2, 1)

    def test_reward_adapters_carry_the_head(self, tiny_model_dir, tokenizer, tmp_path):
        policy = trained(tiny_model_dir, head="reward", lora=LORA)
        save_policy(policy, tokenizer, tmp_path / "out", merge=False)
        again = build_policy(PolicySpec(str(tmp_path / "out"), head="reward"))
        torch.testing.assert_close(outputs(again), outputs(policy), atol=5e-5, rtol=0)

    @pytest.mark.parametrize("pad", ["</s>", None, "<pad>"])
    @pytest.mark.parametrize("merge", [True, False])
    def test_transformers_scores_padded_batches_as_we_do(self, pad, merge, tiny_model_dir, tmp_path, capsys):
        """Also where the tokenizer pads with what texts end with, which its own reading of scores does not survive."""
        folder = shutil.copytree(tiny_model_dir, tmp_path / "model")
        tokenizer = load_tokenizer(str(folder))
        tokenizer.pad_token = pad
        policy = trained(str(folder), head="reward", lora=None if merge else LORA)
        policy.config.pad_token_id = tokenizer.pad_token_id
        saved = save_policy(policy, tokenizer, tmp_path / "out", merge=merge)
        assert bool(saved.note) == (pad != "<pad>")

        texts = [f"{text}</s>" for text in ("short", "a longer text", "the longest of all texts")]
        examples = [Example(n, [tokenizer(text).input_ids], [1]) for n, text in enumerate(texts)]
        with torch.no_grad():
            ours = RewardScorer(policy).eval()(build_rows(examples, Layout.PADDED))[:, None]
        again = AutoTokenizer.from_pretrained(tmp_path / "out")
        assert again.eos_token == "</s>"
        if merge:
            theirs = AutoModelForSequenceClassification.from_pretrained(tmp_path / "out").eval()
        else:
            base = AutoModelForSequenceClassification.from_pretrained(
                folder, num_labels=1, pad_token_id=again.pad_token_id
            )
            theirs = PeftModel.from_pretrained(base, tmp_path / "out").eval()
        with torch.no_grad():
            scores = theirs(**again(texts, padding=True, return_tensors="pt", return_token_type_ids=False)).logits
        torch.testing.assert_close(scores, ours, atol=5e-5, rtol=0)
        if pad == "</s>":
            # What would be read with the tokenizer as it came, so that this test can fail.
            theirs.config.pad_token_id = 2
            with torch.no_grad():
                wrong = theirs(
                    **tokenizer(texts, padding=True, return_tensors="pt", return_token_type_ids=False)
                ).logits
            assert (wrong - ours).abs().max() > 1e-2

    def test_without_a_token_to_pad_with_batches_are_refused(self, tiny_model_dir, tokenizer, tmp_path):
        tokenizer.pad_token, tokenizer.unk_token = "</s>", "</s>"
        config = build_policy(PolicySpec(tiny_model_dir, head="reward")).config
        config.vocab_size = 0
        tokenizer, pad, note = score_padding(tokenizer, config, adapters=False)
        assert pad is None
        assert "one text at a time" in note

    def test_narrower_dtype(self, tiny_model_dir, tokenizer, tmp_path):
        policy = trained(tiny_model_dir, lora=LORA)
        saved = save_policy(policy, tokenizer, tmp_path / "out", dtype="bfloat16")
        assert AutoModelForCausalLM.from_pretrained(saved.folder).dtype is torch.bfloat16
        assert 1e-4 < saved.largest_change <= saved.tolerance
        assert policy.dtype is torch.float32

    def test_bfloat16_policy_is_merged_in_float32_and_rounded_once(self, tiny_model_dir, tokenizer, tmp_path):
        policy = trained(tiny_model_dir, lora=LORA, dtype="bfloat16")
        fine = AutoModelForCausalLM.from_pretrained(
            save_policy(policy, tokenizer, tmp_path / "fine", dtype="float32").folder
        )
        same = AutoModelForCausalLM.from_pretrained(save_policy(policy, tokenizer, tmp_path / "same").folder)
        for mine, theirs in zip(same.parameters(), fine.parameters(), strict=True):
            assert torch.equal(mine, theirs.bfloat16())


class TestFolder:
    def test_tokenizer_template_and_settings(self, tiny_model_dir, tokenizer, tmp_path):
        tokenizer.chat_template = "{{ messages }}"
        tokenizer.eos_token = "Z"
        save_policy(trained(tiny_model_dir), tokenizer, tmp_path / "out")
        again = AutoTokenizer.from_pretrained(tmp_path / "out")
        assert again.chat_template == "{{ messages }}"
        assert again("Some text.")["input_ids"] == tokenizer("Some text.")["input_ids"]
        generation = json.loads((tmp_path / "out" / "generation_config.json").read_text())
        assert generation["eos_token_id"] == [tokenizer.eos_token_id, 2]

    def test_scorer_s_attention_does_not_get_into_the_configuration(self, tiny_model_dir, tokenizer, tmp_path):
        L.seed_everything(3, verbose=False)
        module = DPO(policy=tiny_model_dir, layout="shared")
        train(module, tmp_path, [])
        save_policy(module, tokenizer, tmp_path / "out")
        assert "lit_align" not in (tmp_path / "out" / "config.json").read_text()

    def test_folder_in_use(self, tiny_model_dir, tokenizer, tmp_path):
        (tmp_path / "out").mkdir()
        (tmp_path / "out" / "thesis.txt").write_text("do not overwrite")
        with pytest.raises(ConfigError, match="in use"):
            save_policy(trained(tiny_model_dir), tokenizer, tmp_path / "out")

    def test_change_over_tolerance_writes_nothing(self, tiny_model_dir, tokenizer, tmp_path):
        with pytest.raises(ConfigError, match=r"does not compute(.|\n)*finer dtype"):
            save_policy(trained(tiny_model_dir), tokenizer, tmp_path / "out", dtype="bfloat16", tolerance=1e-6)
        assert list(tmp_path.iterdir()) == []

    def test_adapters_on_a_merged_adapter_have_no_base(self, tiny_model_dir, tokenizer, tmp_path):
        first = save_policy(trained(tiny_model_dir, lora=LORA), tokenizer, tmp_path / "first", merge=False)
        second = trained(str(first.folder), lora=LORA)
        with pytest.raises(ConfigError, match="--merge true"):
            save_policy(second, tokenizer, tmp_path / "second", merge=False)
        assert save_policy(second, tokenizer, tmp_path / "second").largest_change < 5e-5

    def test_other_models(self, tiny_model_dir, tokenizer, tmp_path):
        with pytest.raises(ConfigError, match="that lit-align has built"):
            save_policy(AutoModelForCausalLM.from_pretrained(tiny_model_dir), tokenizer, tmp_path / "out")


@pytest.fixture(scope="module")
def run_folder(tiny_model_dir, tmp_path_factory) -> tuple[Path, DPO]:
    """A run with adapters and a chat template of its own, and its module."""
    root = tmp_path_factory.mktemp("run")
    L.seed_everything(3, verbose=False)
    module = DPO(policy=tiny_model_dir, learning_rate=1e-2)
    train(module, root, [LoRA(r=4), RunCheckpoint(every_n_steps=4)], chat_template="transcript")
    return root, module


def policy_logps(module) -> torch.Tensor:
    with module.policy.plain():
        return outputs(module.policy.model)


class TestCommand:
    def test_newest_checkpoint_of_a_run(self, run_folder, capsys):
        root, module = run_folder
        assert main(["export", "--run", str(root)]) == 0
        said = capsys.readouterr().out
        assert "step=8.ckpt" in said
        assert "largest change of a log-probability or score" in said
        plain = AutoModelForCausalLM.from_pretrained(root / "export")
        torch.testing.assert_close(outputs(plain), policy_logps(module), atol=5e-5, rtol=0)
        assert "Human: " in AutoTokenizer.from_pretrained(root / "export").chat_template

    def test_one_checkpoint_adapters_only(self, run_folder, tmp_path, capsys):
        root, module = run_folder
        file = root / "checkpoints" / "step=4.ckpt"
        arguments = ["export", "--ckpt", str(file), "--out", str(tmp_path / "out"), "--merge", "false"]
        assert main(arguments) == 0
        assert "adapters only" in capsys.readouterr().out
        early = AutoPeftModelForCausalLM.from_pretrained(tmp_path / "out")
        assert (outputs(early) - policy_logps(module)).abs().max() > 1e-3

    def test_4_bit_run(self, tiny_model_dir, tmp_path):
        module = DPO(policy=tiny_model_dir, learning_rate=1e-2)
        train(module, tmp_path, [QLoRA(r=4), RunCheckpoint()])
        assert main(["export", "--run", str(tmp_path)]) == 0
        plain = AutoModelForCausalLM.from_pretrained(tmp_path / "export")
        torch.testing.assert_close(outputs(plain), policy_logps(module), atol=5e-5, rtol=0)

    def test_reward_run(self, tiny_model_dir, tmp_path):
        module = BradleyTerry(policy=tiny_model_dir, learning_rate=1e-2)
        train(module, tmp_path, [RunCheckpoint()])
        assert main(["export", "--run", str(tmp_path)]) == 0
        plain = AutoModelForSequenceClassification.from_pretrained(tmp_path / "export")
        torch.testing.assert_close(outputs(plain), policy_logps(module), atol=5e-5, rtol=0)

    @pytest.mark.parametrize("lora", [False, True])
    def test_sharded_checkpoint(self, lora, tiny_model_dir, tmp_path):
        expected = launch(train_sharded, tiny_model_dir, tmp_path, lora, world=2)[0]
        assert (tmp_path / "checkpoints" / "step=2.ckpt").is_dir()
        assert main(["export", "--run", str(tmp_path)]) == 0
        plain = AutoModelForCausalLM.from_pretrained(tmp_path / "export")
        torch.testing.assert_close(outputs(plain), torch.tensor(expected), atol=5e-5, rtol=0)

    def test_policy_that_has_moved(self, run_folder, tiny_model_dir, tmp_path):
        root, _ = run_folder
        checkpoint = read_checkpoint(root / "checkpoints" / "step=8.ckpt")
        moved = shutil.copytree(tiny_model_dir, tmp_path / "elsewhere")
        assert saved_spec(checkpoint, str(moved)).name == str(moved)
        restored_policy(checkpoint, saved_spec(checkpoint, str(moved)))

    def test_policy_of_another_shape(self, run_folder, tmp_path):
        other = save_tiny_model(tmp_path / "other", num_hidden_layers=1)
        checkpoint = read_checkpoint(run_folder[0] / "checkpoints" / "step=8.ckpt")
        with pytest.raises(ConfigError, match="--policy names another"):
            restored_policy(checkpoint, saved_spec(checkpoint, other))
        wide = save_tiny_model(tmp_path / "wide", intermediate_size=52)
        with pytest.raises(ConfigError, match=r"size mismatch(.|\n)*--policy names another"):
            restored_policy(checkpoint, saved_spec(checkpoint, wide))


def train_sharded(model: str, root: Path, lora: bool) -> list:
    """Train on two ranks; returns what the policy computes, as lists."""
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    warnings.simplefilter("ignore")
    L.seed_everything(3, verbose=False)
    module = DPO(policy=model, learning_rate=1e-2)
    trainer = L.Trainer(
        accelerator="cpu", devices=2, strategy=FSDP2Strategy(), max_steps=2, default_root_dir=str(root),
        logger=False, enable_progress_bar=False, enable_model_summary=False, use_distributed_sampler=False,
        callbacks=[RunCheckpoint(), *([LoRA(r=4)] if lora else [])],
    )  # fmt: skip
    pairs = PreferenceDataModule(write_pairs(root), batch_size=2, cache_dir=str(root / "cache"))
    trainer.fit(module, pairs)
    whole = {name: p.full_tensor().detach() for name, p in module.policy.model.named_parameters()}
    policy = build_policy(module.policy_spec)
    policy.load_state_dict(whole, strict=False)
    return outputs(policy).tolist()


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ([], "neither --run nor --ckpt"),
        (["--run", "a", "--ckpt", "b"], "both --run and --ckpt"),
        (["--run", "{tmp}"], "no such folder"),
        (["--run", "{tmp}/empty"], "no complete checkpoint"),
        (["--ckpt", "{tmp}/cut.ckpt"], "not written to its end"),
        (["--ckpt", "{tmp}/nothing.ckpt"], "no such file"),
        (["--ckpt", "{tmp}/foreign.ckpt"], "not written by lit-align"),
        (["--ckpt", "{tmp}/code.ckpt"], "could run code"),
        (["--ckpt", "{tmp}/empty"], "not a sharded checkpoint"),
    ],
)
def test_mistakes_are_explained(arguments, said, tmp_path, capsys):
    (tmp_path / "empty" / "checkpoints").mkdir(parents=True)
    torch.save({"state_dict": {}}, tmp_path / "foreign.ckpt")
    torch.save({"object": Path("x")}, tmp_path / "code.ckpt")
    (tmp_path / "cut.ckpt").write_bytes((tmp_path / "foreign.ckpt").read_bytes()[:-40])
    assert main(["export", *(argument.format(tmp=tmp_path) for argument in arguments)]) == 2
    assert said in capsys.readouterr().err
