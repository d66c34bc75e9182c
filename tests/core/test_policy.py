"""Policies are built as described, from everything a user may name, and nothing else is touched."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from transformers import (
    AutoModelForCausalLM,
    Gemma2Config,
    Gemma2ForCausalLM,
    GPT2Config,
    GPT2LMHeadModel,
    LlamaForSequenceClassification,
)

from lit_align.core.errors import ConfigError
from lit_align.core.policy import (
    LoRASpec,
    PolicySpec,
    QuantizationSpec,
    build_policy,
    count_parameters,
    exported_config,
    head_of,
    load_tokenizer,
)
from tests.helpers import save_tiny_model, tiny_config, tiny_model

IDS = torch.tensor([[1, 40, 50, 60, 70, 80, 90, 100]])


def logits(model) -> torch.Tensor:
    with torch.no_grad():
        return model(input_ids=IDS).logits


def weights(model) -> dict[str, torch.Tensor]:
    return {name: parameter.detach().clone() for name, parameter in model.named_parameters()}


@pytest.fixture(scope="module")
def adapter_dir(tiny_model_dir, tmp_path_factory) -> tuple[str, torch.Tensor]:
    """A PEFT adapter that changes its base model visibly, and the logits that it gives."""
    model = build_policy(PolicySpec(tiny_model_dir, lora=LoRASpec(r=4)))
    for name, parameter in model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=0.2)
    folder = tmp_path_factory.mktemp("adapter") / "adapter"
    model.save_pretrained(folder)
    return str(folder), logits(model.eval())


class TestBuild:
    @pytest.mark.parametrize("dtype", ["float32", "float64", "bfloat16"])
    def test_same_model_as_transformers_loads(self, tiny_model_dir, dtype):
        policy = build_policy(PolicySpec(tiny_model_dir, dtype=dtype))
        plain = AutoModelForCausalLM.from_pretrained(tiny_model_dir, dtype=getattr(torch, dtype))
        assert policy.training
        assert not policy.config.use_cache
        assert {p.dtype for p in policy.parameters()} == {getattr(torch, dtype)}
        assert all(p.requires_grad for p in policy.parameters())
        assert torch.equal(logits(policy), logits(plain))

    def test_auto_dtype_is_the_checkpoint_s(self, tmp_path):
        tiny_model(dtype=torch.bfloat16).save_pretrained(tmp_path)
        assert build_policy(PolicySpec(str(tmp_path), dtype="auto")).dtype is torch.bfloat16

    def test_dropout_is_off_unless_asked_and_not_lost(self, tmp_path):
        config = GPT2Config(
            vocab_size=128, n_embd=16, n_layer=1, n_head=2, bos_token_id=1, eos_token_id=2, attn_pdrop=0.3
        )
        GPT2LMHeadModel(config).save_pretrained(tmp_path)
        quiet = build_policy(PolicySpec(str(tmp_path)))
        assert {m.p for m in quiet.modules() if isinstance(m, torch.nn.Dropout)} == {0.0}
        assert torch.equal(logits(quiet), logits(quiet))
        assert exported_config(quiet).attn_pdrop == 0.3
        assert exported_config(quiet).use_cache
        assert not quiet.config.use_cache
        noisy = build_policy(PolicySpec(str(tmp_path), dropout=True))
        assert not torch.equal(logits(noisy), logits(noisy))

    def test_gemma2_falls_back_to_eager_attention(self, tmp_path):
        config = Gemma2Config(
            vocab_size=128, hidden_size=16, intermediate_size=16, num_hidden_layers=1, num_attention_heads=2,
            num_key_value_heads=1, head_dim=8,
        )  # fmt: skip
        Gemma2ForCausalLM(config).save_pretrained(tmp_path)
        assert build_policy(PolicySpec(str(tmp_path))).config._attn_implementation == "eager"
        with pytest.raises(ConfigError, match=r"model\.attention: eager"):
            build_policy(PolicySpec(str(tmp_path), attention="sdpa"))

    @pytest.mark.parametrize("lora", [None, LoRASpec(r=4)])
    def test_activation_checkpointing_changes_no_gradient(self, tiny_model_dir, lora):
        gradients = []
        for on in (False, True):
            policy = build_policy(PolicySpec(tiny_model_dir, lora=lora, activation_checkpointing=on))
            assert any(getattr(m, "gradient_checkpointing", False) for m in policy.modules()) == on
            policy(input_ids=IDS, labels=IDS).loss.backward()
            gradients.append({n: p.grad for n, p in policy.named_parameters() if p.requires_grad})
        assert gradients[0].keys() == gradients[1].keys()
        assert all(torch.equal(gradients[0][name], gradients[1][name]) for name in gradients[0])


class TestSeeds:
    @pytest.mark.parametrize("what", [{"lora": LoRASpec(r=4)}, {"head": "reward"}])
    def test_new_weights_follow_the_seed_and_nothing_else(self, tiny_model_dir, what):
        spec = PolicySpec(tiny_model_dir, seed=3, **what)
        torch.manual_seed(11)
        before = torch.get_rng_state()
        first = weights(build_policy(spec))
        assert torch.equal(before, torch.get_rng_state())
        torch.randn(5)
        second, other = weights(build_policy(spec)), weights(build_policy(replace(spec, seed=4)))
        assert all(torch.equal(first[name], second[name]) for name in first)
        assert any(not torch.equal(first[name], other[name]) for name in first)

    def test_without_a_seed_the_run_s_seed_counts(self, tiny_model_dir):
        spec = PolicySpec(tiny_model_dir, lora=LoRASpec(r=4))
        found = []
        for seed, drawn in ((5, 0), (5, 7), (6, 0)):
            torch.manual_seed(seed)
            torch.randn(drawn)
            found.append(weights(build_policy(spec)))
        name = next(name for name in found[0] if "lora_A" in name)
        assert torch.equal(found[0][name], found[1][name])
        assert not torch.equal(found[0][name], found[2][name])


class TestRewardHead:
    def test_new_head_starts_small(self, tmp_path):
        folder = save_tiny_model(tmp_path, hidden_size=256)
        head = head_of(build_policy(PolicySpec(folder, head="reward")))
        assert head.weight.shape == (1, 256)
        assert head.weight.std().item() == pytest.approx(257**-0.5, rel=0.2)

    def test_head_of_the_checkpoint_is_kept(self, tmp_path):
        trained = LlamaForSequenceClassification(tiny_config(num_labels=1))
        trained.save_pretrained(tmp_path)
        policy = build_policy(PolicySpec(str(tmp_path), head="reward"))
        assert torch.equal(policy.score.weight, trained.score.weight)

    def test_adapters_leave_the_head_trainable(self, tiny_model_dir):
        policy = build_policy(PolicySpec(tiny_model_dir, head="reward", lora=LoRASpec(r=2)))
        trained = {name for name, p in policy.named_parameters() if p.requires_grad}
        assert {name for name in trained if "score" in name} == {
            "base_model.model.score.modules_to_save.default.weight"
        }
        assert all("lora_" in name for name in trained if "score" not in name)

    def test_two_labels_are_refused(self, tmp_path):
        LlamaForSequenceClassification(tiny_config(num_labels=2)).save_pretrained(tmp_path)
        with pytest.raises(ConfigError, match="with 2 labels, where the method has 1"):
            build_policy(PolicySpec(str(tmp_path), head="reward"))

    def test_reward_model_is_no_language_model(self, tmp_path):
        LlamaForSequenceClassification(tiny_config(num_labels=1)).save_pretrained(tmp_path)
        with pytest.raises(ConfigError, match=r"lacks weights.*\n.*lm_head"):
            build_policy(PolicySpec(str(tmp_path)))


class TestAdapterFolder:
    def test_adapter_is_merged(self, adapter_dir, tiny_model_dir):
        folder, expected = adapter_dir
        policy = build_policy(PolicySpec(folder))
        assert not hasattr(policy, "peft_config")
        assert all(p.requires_grad for p in policy.parameters())
        torch.testing.assert_close(logits(policy), expected)
        assert (expected - logits(build_policy(PolicySpec(tiny_model_dir)))).abs().max() > 0.1

    def test_new_adapters_stand_on_the_merged_weights(self, adapter_dir):
        folder, expected = adapter_dir
        policy = build_policy(PolicySpec(folder, lora=LoRASpec(r=2)))
        torch.nn.init.ones_(next(p for n, p in policy.named_parameters() if "lora_B" in n))
        with policy.disable_adapter():
            torch.testing.assert_close(logits(policy), expected)
        assert (logits(policy) - expected).abs().max() > 1e-3

    def test_merged_weights_are_what_is_quantised(self, adapter_dir, tiny_model_dir):
        folder, expected = adapter_dir
        quantised = PolicySpec(folder, lora=LoRASpec(r=2), quantization=QuantizationSpec())
        base = logits(build_policy(PolicySpec(tiny_model_dir)))
        ours = logits(build_policy(quantised))
        assert (ours - expected).norm() < 0.5 * (ours - base).norm()

    def test_tokenizer_comes_from_the_base(self, adapter_dir):
        assert load_tokenizer(adapter_dir[0]).eos_token == "</s>"

    def test_adapter_without_a_base_is_refused(self, adapter_dir, tmp_path):
        settings = json.loads((Path(adapter_dir[0]) / "adapter_config.json").read_text())
        (tmp_path / "adapter_config.json").write_text(json.dumps(settings | {"base_model_name_or_path": None}))
        with pytest.raises(ConfigError, match="does not name the model"):
            build_policy(PolicySpec(str(tmp_path)))


class TestAdapters:
    @pytest.mark.parametrize(
        ("spec", "scale"), [(LoRASpec(r=4, alpha=8), 2.0), (LoRASpec(r=4, alpha=8, rank_stabilised=True), 4.0)]
    )
    def test_scale(self, tiny_model_dir, spec, scale):
        policy = build_policy(PolicySpec(tiny_model_dir, lora=spec))
        layer = policy.get_base_model().model.layers[0].mlp.up_proj
        assert layer.scaling["default"] == scale

    def test_named_modules_and_whole_modules(self, tiny_model_dir):
        lora = LoRASpec(r=4, target_modules=("q_proj", "v_proj"), modules_to_save=("embed_tokens",))
        policy = build_policy(PolicySpec(tiny_model_dir, lora=lora))
        trained = {name.split(".layers.")[-1] for name, p in policy.named_parameters() if p.requires_grad}
        adapted = {name.split(".")[2] for name in trained if "lora" in name}
        assert adapted == {"q_proj", "v_proj"}
        assert sum("embed_tokens" in name for name in trained) == 1

    def test_counts_see_through_packed_weights(self, tiny_model_dir):
        whole = count_parameters(build_policy(PolicySpec(tiny_model_dir)))
        adapted = count_parameters(build_policy(PolicySpec(tiny_model_dir, lora=LoRASpec(r=4))))
        packed = PolicySpec(tiny_model_dir, lora=LoRASpec(r=4), quantization=QuantizationSpec())
        assert whole.trainable == whole.total
        assert adapted.total == whole.total + adapted.trainable
        assert count_parameters(build_policy(packed)) == adapted
        assert str(adapted).endswith("parameters are trained (10.27 %)")


class TestSpec:
    def test_survives_a_checkpoint_of_plain_types(self, tmp_path):
        lora = LoRASpec(r=2, target_modules=("q_proj",))
        spec = PolicySpec("name", lora=lora, quantization=QuantizationSpec(double=False), head="reward")
        torch.save(spec.to_dict(), tmp_path / "spec.pt")
        assert PolicySpec.from_dict(torch.load(tmp_path / "spec.pt", weights_only=True)) == spec
        assert PolicySpec.from_dict(PolicySpec("name").to_dict()) == PolicySpec("name")

    @pytest.mark.parametrize(
        "make",
        [
            lambda: PolicySpec("m", dtype="fp32"),
            lambda: PolicySpec(""),
            lambda: LoRASpec(r=0),
            lambda: LoRASpec(alpha=0),
            lambda: LoRASpec(dropout=1.0),
            lambda: LoRASpec(target_modules=()),
        ],
    )
    def test_impossible_values_are_refused_at_once(self, make):
        with pytest.raises(ConfigError):
            make()

    def test_importing_is_light(self):
        code = (
            "import sys, lit_align.core.policy as p; print({'peft', 'transformers', 'bitsandbytes'} & set(sys.modules))"
        )
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
        assert done.stdout.strip() == "set()"


def _broken(case: str, tmp_path: Path) -> str:
    """A name that cannot be loaded."""
    folder = tmp_path / "model"
    if case == "no folder":
        return str(folder)
    if case == "hub":
        return "nobody/has-this-model"
    if case == "file":
        (tmp_path / "step=3.ckpt").write_bytes(b"x")
        return str(tmp_path / "step=3.ckpt")
    if case == "run":
        (tmp_path / "checkpoints").mkdir()
        return str(tmp_path)
    save_tiny_model(folder)
    config = json.loads((folder / "config.json").read_text())
    if case == "parent":
        return str(tmp_path)
    code = {"model_type": "mine", "auto_map": {"AutoConfig": "mine.Config", "AutoModelForCausalLM": "mine.Model"}}
    configs = {
        "config": "{",
        "shape": json.dumps(config | {"intermediate_size": 52}),
        "unknown": json.dumps(config | {"model_type": "no_such_type"}),
        "code": json.dumps(code),
        "t5": json.dumps({"model_type": "t5", "is_encoder_decoder": True}),
    }
    if case in configs:
        (folder / "config.json").write_text(configs[case])
    if case == "weights":
        (folder / "model.safetensors").write_bytes((folder / "model.safetensors").read_bytes()[:999])
    if case == "no weights":
        (folder / "model.safetensors").unlink()
    return str(folder)


@pytest.mark.parametrize(
    ("case", "said"),
    [
        ("no folder", "folder does not exist"),
        ("hub", "check the name, the revision and the network"),
        ("file", "lit-align export --ckpt"),
        ("run", "lit-align export --run"),
        ("parent", "name the folder inside it"),
        ("config", "damaged"),
        ("weights", "damaged"),
        ("no weights", "missing"),
        ("shape", "disagree"),
        ("unknown", "newer transformers"),
        ("code", "trust_remote_code: true"),
        ("t5", "encoder-decoder"),
    ],
)
def test_errors_name_the_model_and_the_remedy(case, said, tmp_path):
    name = _broken(case, tmp_path)
    with pytest.raises(ConfigError) as caught:
        build_policy(PolicySpec(name))
    assert Path(name).name in str(caught.value)
    assert said in str(caught.value)
    assert caught.value.fix


class TestOtherErrors:
    def test_unknown_modules_of_adapters(self, tiny_model_dir):
        with pytest.raises(ConfigError, match="all-linear"):
            build_policy(PolicySpec(tiny_model_dir, lora=LoRASpec(target_modules=("nothing",))))

    def test_quantised_weights_need_adapters(self, tiny_model_dir):
        with pytest.raises(ConfigError, match="QLoRA"):
            build_policy(PolicySpec(tiny_model_dir, quantization=QuantizationSpec()))


class TestTokenizer:
    def test_template_as_text_or_file(self, tiny_model_dir, tmp_path):
        template = "{{ messages[0]['content'] }}"
        (tmp_path / "chat.jinja").write_text(template)
        for given in (template, str(tmp_path / "chat.jinja")):
            assert load_tokenizer(tiny_model_dir, chat_template=given).chat_template == template
        assert "assistant" in load_tokenizer(tiny_model_dir).chat_template

    def test_missing_template_file(self, tiny_model_dir):
        with pytest.raises(ConfigError, match="neither Jinja text nor a file"):
            load_tokenizer(tiny_model_dir, chat_template="chat.jinja")

    def test_model_without_a_tokenizer(self, tmp_path):
        tiny_model().save_pretrained(tmp_path)
        with pytest.raises(ConfigError, match="no tokenizer"):
            load_tokenizer(str(tmp_path))
