"""Scorers against plain models: what is scored, adapters, precisions, checkpointing, the self-check."""

from __future__ import annotations

import copy

import pytest
import torch
from peft import LoraConfig, PromptTuningConfig, TaskType, get_peft_model
from torch import nn
from torch.overrides import TorchFunctionMode
from transformers import (
    GPT2Config,
    GPT2ForSequenceClassification,
    GPT2ForTokenClassification,
    LlamaForCausalLM,
    LlamaForSequenceClassification,
    LlamaForTokenClassification,
    Qwen2Config,
    Qwen2ForSequenceClassification,
    Qwen2ForTokenClassification,
)

from lit_align.core.attention import SEGMENT_ATTENTION
from lit_align.core.batch import Layout
from lit_align.core.errors import ConfigError
from lit_align.core.forward import RewardScorer, Scorer
from lit_align.core.layout import build_rows
from tests.core.oracle import (
    KeepFloat64,
    assert_same_gradients,
    gradients,
    make_examples,
    plain_logps,
    plain_rewards,
)
from tests.helpers import tiny_config, tiny_model

EXAMPLES = make_examples()
LINEAR = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]


def assert_scores_like(model, plain, examples=EXAMPLES, tolerance=1e-9):
    """In each layout the scorer of `model` gives the values and gradients of `plain`, which may be `model`."""
    with KeepFloat64():
        expected, _ = plain_logps(plain, examples)
        reference = gradients(expected, plain)
        for layout in Layout:
            actual = Scorer(model)(build_rows(examples, layout))
            assert (actual - expected).abs().max() <= tolerance, layout
            assert_same_gradients(gradients(actual, model), reference, tolerance)


@pytest.mark.parametrize("layout", Layout)
def test_sums_are_float64_and_in_the_order_of_the_responses(layout):
    model = tiny_model()
    rows = build_rows(EXAMPLES, layout, score_prompts=False)
    with torch.no_grad():
        tokens, sums = plain_logps(model, EXAMPLES)
        scored = Scorer(model)(rows)
        logps = Scorer(model).sequence_logps(rows)
    assert scored.dtype == torch.float32
    assert logps.sums.dtype == torch.float64
    torch.testing.assert_close(scored, tokens, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(logps.sums, sums.double(), rtol=1e-5, atol=1e-5)
    assert logps.lengths.tolist() == [9, 14, 5, 11, 3, 8, 5, 7, 4, 6, 9]
    torch.testing.assert_close(logps.means, logps.sums / logps.lengths)


@pytest.mark.parametrize("layout", Layout)
def test_prompts_are_scored_on_request(layout):
    examples = [example for example in EXAMPLES if example.prompt_lengths[0] > 1]
    model = tiny_model(dtype=torch.float64)
    with torch.no_grad(), KeepFloat64():
        tokens, sums = plain_logps(model, examples, score_prompts=True)
        rows = build_rows(examples, layout, score_prompts=True)
        torch.testing.assert_close(Scorer(model)(rows), tokens, rtol=0, atol=1e-9)
        torch.testing.assert_close(Scorer(model).sequence_logps(rows).sums, sums, rtol=0, atol=1e-9)


def test_neither_padding_nor_neighbours_nor_order_change_a_score():
    model = tiny_model(dtype=torch.float64).eval()
    scorer = Scorer(model)
    longest = make_examples(seed=3)[1]._replace(masks=None)
    longest = longest._replace(ids=[ids + [5] * 60 for ids in longest.ids])
    with torch.no_grad(), KeepFloat64():
        for layout in Layout:
            alone = torch.cat([scorer(build_rows([example], layout)) for example in EXAMPLES])
            together = scorer(build_rows([*EXAMPLES, longest], layout, pad_id=17))[: len(alone)]
            torch.testing.assert_close(together, alone, rtol=0, atol=1e-9)
            reversed_sums = scorer.sequence_logps(build_rows(EXAMPLES[::-1], layout)).sums
            counts = [len(example.ids) for example in EXAMPLES]
            sums = scorer.sequence_logps(build_rows(EXAMPLES, layout)).sums.split(counts)
            torch.testing.assert_close(reversed_sums, torch.cat(sums[::-1]), rtol=0, atol=1e-9)


def test_untied_and_tied_heads():
    for tied in (False, True):
        model = tiny_model(dtype=torch.float64, tie_word_embeddings=tied)
        assert_scores_like(model, model)


def test_a_frozen_head_gives_the_same_gradients():
    model = tiny_model(dtype=torch.float64)
    model.lm_head.weight.requires_grad_(False)
    assert_scores_like(model, model)


def test_a_frozen_model_gives_no_gradient():
    model = tiny_model().requires_grad_(False)
    assert not Scorer(model)(build_rows(EXAMPLES, Layout.SHARED)).requires_grad


class TestAdapters:
    @staticmethod
    def adapted(**settings):
        config = LoraConfig(r=4, lora_alpha=8, task_type=TaskType.CAUSAL_LM, **settings)
        model = get_peft_model(tiny_model(dtype=torch.float64), config).double()
        for name, parameter in model.named_parameters():
            if "lora_B" in name:
                nn.init.normal_(parameter, std=0.3)
        return model

    @pytest.mark.parametrize("targets", [LINEAR, [*LINEAR, "lm_head"]])
    @pytest.mark.parametrize("dora", [False, True])
    def test_adapters_on(self, targets, dora):
        model = self.adapted(target_modules=targets, use_dora=dora)
        assert_scores_like(model, model)

    def test_a_trained_copy_of_the_head(self):
        model = self.adapted(target_modules=LINEAR, modules_to_save=["lm_head"])
        assert_scores_like(model, model)

    def test_adapters_off_is_the_base_model(self):
        model = self.adapted(target_modules=[*LINEAR, "lm_head"])
        base = tiny_model(dtype=torch.float64)
        scorer = Scorer(model)
        with torch.no_grad(), KeepFloat64():
            expected, _ = plain_logps(base, EXAMPLES)
            for layout in Layout:
                rows = build_rows(EXAMPLES, layout)
                with_adapter = scorer(rows)
                with model.disable_adapter():
                    without = scorer(rows)
                assert (with_adapter - expected).abs().max() > 0.1
                assert (without - expected).abs().max() <= 1e-9

    def test_dropout_in_the_head_adapter_is_the_same_in_the_backward_pass(self):
        """The head is computed twice; a fresh mask the second time would give a gradient of another function."""
        model = self.adapted(target_modules=["lm_head"], lora_dropout=0.5).train()
        scorer, rows = Scorer(model), build_rows(EXAMPLES[:1], Layout.SHARED)
        weight = model.get_output_embeddings().lora_B["default"].weight

        def loss():
            torch.manual_seed(3)
            return scorer(rows).sum()

        (slope,) = torch.autograd.grad(loss(), weight)
        with torch.no_grad():
            step = 1e-5
            weight[5, 2] += step
            above = loss()
            weight[5, 2] -= 2 * step
            below = loss()
        torch.testing.assert_close(slope[5, 2], (above - below) / (2 * step), rtol=1e-6, atol=1e-6)

    def test_prompt_learning_is_refused(self):
        model = get_peft_model(tiny_model(), PromptTuningConfig(task_type=TaskType.CAUSAL_LM, num_virtual_tokens=3))
        with pytest.raises(ConfigError, match="LoRA"):
            Scorer(model)


class TestPrecision:
    @pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
    def test_half_precision_models(self, dtype):
        exact = tiny_model()
        with torch.no_grad():
            expected, _ = plain_logps(exact, EXAMPLES)
            plain, _ = plain_logps(copy.deepcopy(exact).to(dtype), EXAMPLES)
        spread = (plain.float() - expected).abs().mean()
        for layout in Layout:
            model = copy.deepcopy(exact).to(dtype)
            logps = Scorer(model)(build_rows(EXAMPLES, layout))
            assert logps.dtype == torch.float32
            assert (logps - expected).abs().mean() <= 1.5 * spread
            logps.sum().backward()
            assert all(p.grad.dtype == dtype and p.grad.isfinite().all() for p in model.parameters())

    def test_autocast(self):
        model = tiny_model()
        with torch.autocast("cpu", torch.bfloat16):
            expected, _ = plain_logps(model, EXAMPLES)
            for layout in Layout:
                logps = Scorer(model)(build_rows(EXAMPLES, layout))
                assert logps.dtype == torch.float32
                assert (logps - expected).abs().mean() < 0.1
                assert all(g.dtype == torch.float32 for g in gradients(logps, model).values())


@pytest.mark.parametrize("reentrant", [False, True])
@pytest.mark.parametrize("layout", Layout)
def test_activation_checkpointing(layout, reentrant):
    plain, checkpointed = tiny_model(dtype=torch.float64), tiny_model(dtype=torch.float64).train()
    checkpointed.gradient_checkpointing_enable({"use_reentrant": reentrant})
    rows = build_rows(EXAMPLES, layout)
    weights = torch.linspace(-1, 1, len(rows.target), dtype=torch.float64)
    for model in (plain, checkpointed):
        (Scorer(model)(rows) * weights).sum().backward()
    for ours, theirs in zip(checkpointed.parameters(), plain.parameters(), strict=True):
        torch.testing.assert_close(ours.grad, theirs.grad, rtol=0, atol=1e-12)


def test_two_layouts_through_one_scorer():
    scorer = Scorer(tiny_model())
    logps = [scorer(build_rows(EXAMPLES, layout)) for layout in (*Layout, *Layout)]
    for other in logps[1:]:
        torch.testing.assert_close(other, logps[0], rtol=1e-4, atol=1e-4)


def test_copies_and_second_scorers_work():
    model, rows = tiny_model(), build_rows(EXAMPLES, Layout.SHARED)
    scorer = Scorer(model)
    expected = scorer(rows)
    padded = build_rows(EXAMPLES, Layout.PADDED)
    for other in (Scorer(model), Scorer(copy.deepcopy(model)), copy.deepcopy(scorer)):
        for these in (rows, padded):
            torch.testing.assert_close(other(these), expected, rtol=1e-4, atol=1e-4)


class LargestTensor(TorchFunctionMode):
    """Remembers the number of elements of the largest tensor that any function returned."""

    elements = 0

    def __torch_function__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        if isinstance(result, torch.Tensor):
            self.elements = max(self.elements, result.numel())
        return result


@pytest.mark.parametrize("layout", [Layout.PACKED, Layout.SHARED])
def test_flat_rows_build_no_square_mask(layout):
    examples = [example._replace(row=n) for n in range(12) for example in EXAMPLES]
    rows = build_rows(examples, layout)
    length = rows.input_ids.shape[1]
    scorer = Scorer(tiny_model(hidden_size=8, intermediate_size=8, num_attention_heads=2, num_key_value_heads=1))
    scorer.verify(rows)
    with LargestTensor() as largest, torch.no_grad():
        scorer(rows)
    assert 0 < largest.elements < length * length / 4


class TestSelfCheck:
    class Scaled(LlamaForCausalLM):
        """Has a head that no configuration tells of."""

        def forward(self, *args, **kwargs):
            output = super().forward(*args, **kwargs)
            output.logits = output.logits * 1.2
            return output

    class Leaky(LlamaForCausalLM):
        """Looks across responses: adds the mean of all embeddings of the call."""

        def __init__(self, config):
            super().__init__(config)
            self.model.embed_tokens.register_forward_hook(lambda _, __, out: out + out.mean(1, keepdim=True))

    @pytest.mark.parametrize("layout", Layout)
    def test_a_head_that_is_not_understood_is_refused(self, layout):
        scorer = Scorer(self.Scaled(tiny_config(initializer_range=0.2)))
        for _ in range(2):
            with pytest.raises(ConfigError, match="does not compute what it computes alone"):
                scorer(build_rows(EXAMPLES, layout))

    def test_tokens_that_see_their_neighbours_are_refused(self):
        scorer = Scorer(self.Leaky(tiny_config(initializer_range=0.2)))
        with pytest.raises(ConfigError, match="layout: padded"):
            scorer(build_rows(EXAMPLES, Layout.SHARED))

    @pytest.mark.parametrize("layout", Layout)
    def test_it_runs_once_and_leaves_no_trace(self, layout, monkeypatch):
        model = tiny_model(attention_dropout=0.3).train()
        model.lm_head.eval()
        scorer, rows = Scorer(model), build_rows(EXAMPLES, layout)
        modes = [module.training for module in scorer.modules()]
        calls = []
        original = scorer.verify
        monkeypatch.setattr(scorer, "verify", lambda rows: calls.append(rows) or original(rows))

        torch.manual_seed(0)
        first = scorer(rows)
        after = torch.random.get_rng_state()
        torch.manual_seed(0)
        second = scorer(rows)
        assert len(calls) == 1
        assert torch.equal(first, second)
        assert torch.equal(after, torch.random.get_rng_state())
        assert [module.training for module in scorer.modules()] == modes
        assert first.requires_grad

    def test_each_kind_of_rows_is_checked(self, monkeypatch):
        scorer = Scorer(tiny_model())
        checked = []
        original = scorer.verify
        monkeypatch.setattr(scorer, "verify", lambda rows: checked.append(rows.segments is None) or original(rows))
        for layout in (*Layout, *Layout):
            scorer(build_rows(EXAMPLES, layout))
        assert checked == [True, False]

    def test_it_fits_short_rows_and_odd_tokens(self):
        pads = EXAMPLES[3]._replace(ids=[[0, 0, 0]], prompt_lengths=[1])
        model = tiny_model(max_position_embeddings=8)
        for layout in Layout:
            assert Scorer(model)(build_rows([pads], layout)).shape == (2,)

    def test_weights_that_are_not_finite_are_not_its_business(self):
        model = tiny_model()
        nn.init.constant_(model.lm_head.weight, float("nan"))
        assert Scorer(model)(build_rows(EXAMPLES, Layout.SHARED)).isnan().all()

    def test_uniform_predictions_pass(self):
        model = tiny_model()
        nn.init.zeros_(model.lm_head.weight)
        logps = Scorer(model)(build_rows(EXAMPLES, Layout.SHARED))
        torch.testing.assert_close(logps, torch.full_like(logps, -torch.log(torch.tensor(264.0))))


class TestPlain:
    def test_generation_is_that_of_the_untouched_model(self):
        model = tiny_model().train()
        untouched = copy.deepcopy(model).eval()
        scorer = Scorer(model)
        scorer(build_rows(EXAMPLES, Layout.SHARED))
        prompt = torch.tensor([[5, 6, 7], [8, 9, 10]])
        settings = {"max_new_tokens": 8, "do_sample": False, "attention_mask": torch.ones_like(prompt)}
        with scorer.plain():
            assert not any(module.training for module in scorer.modules())
            tokens = model.generate(prompt, **settings)
        assert torch.equal(tokens, untouched.generate(prompt, **settings))
        assert all(module.training for module in model.modules())
        assert model.config._attn_implementation == SEGMENT_ATTENTION

    def test_state_is_restored_after_an_error(self):
        scorer = Scorer(tiny_model().train())
        scorer(build_rows(EXAMPLES, Layout.SHARED))
        with pytest.raises(KeyError), scorer.plain():
            raise KeyError
        assert scorer.model.training
        assert scorer.model.config._attn_implementation == SEGMENT_ATTENTION

    def test_generation_outside_is_an_error_that_says_so(self):
        scorer = Scorer(tiny_model())
        scorer(build_rows(EXAMPLES, Layout.SHARED))
        with pytest.raises(ConfigError, match="plain"):
            scorer.model.generate(torch.tensor([[5, 6, 7]]), max_new_tokens=2)


def gpt2_config(num_labels):
    return GPT2Config(
        vocab_size=264, n_embd=32, n_layer=2, n_head=4, n_positions=128, num_labels=num_labels, pad_token_id=0,
        resid_pdrop=0, embd_pdrop=0, attn_pdrop=0,
    )  # fmt: skip


REWARD_MODELS = {
    "llama": lambda labels=1: LlamaForSequenceClassification(tiny_config(num_labels=labels)),
    "qwen2": lambda labels=1: Qwen2ForSequenceClassification(Qwen2Config(**tiny_config(num_labels=labels).to_dict())),
    "gpt2": lambda labels=1: GPT2ForSequenceClassification(gpt2_config(labels)),
}
TOKEN_CLASSIFIERS = {
    "llama": lambda labels: LlamaForTokenClassification(tiny_config(num_labels=labels)),
    "qwen2": lambda labels: Qwen2ForTokenClassification(Qwen2Config(**tiny_config(num_labels=labels).to_dict())),
    "gpt2": lambda labels: GPT2ForTokenClassification(gpt2_config(labels)),
}


def scored_tokens(examples):
    """The tokens up to each scored one, and it, as rows of one."""
    for example in examples:
        for k, (ids, prompt) in enumerate(zip(example.ids, example.prompt_lengths, strict=True)):
            mask = example.masks[k] if example.masks else [1] * (len(ids) - prompt)
            for place, scored in enumerate(mask, start=prompt + 1):
                if scored:
                    yield torch.tensor([ids[:place]])


def assert_read_like(scorer, expected, **how):
    """In each layout the scorer gives these values, and their gradients."""
    reference = gradients(expected.flatten(), scorer.model)
    for layout in Layout:
        outputs = scorer(build_rows(EXAMPLES, layout), **how)
        assert outputs.shape == expected.shape
        assert (outputs - expected).abs().max() <= 1e-9, layout
        assert_same_gradients(gradients(outputs.flatten(), scorer.model), reference, 1e-9)


class TestRewards:
    @staticmethod
    def build(name, kinds=REWARD_MODELS, labels=1):
        torch.manual_seed(0)
        model = kinds[name](labels).double().train()
        for parameter in model.parameters():
            if parameter.dim() > 1:
                nn.init.normal_(parameter, std=0.15)
        return model

    @pytest.mark.parametrize("name", REWARD_MODELS)
    def test_scores_and_gradients_are_those_of_the_plain_model(self, name):
        model = self.build(name)
        with KeepFloat64():
            expected = plain_rewards(model, EXAMPLES)
            assert expected.shape == (11,)
            assert_read_like(RewardScorer(model), expected)

    def test_adapters(self):
        config = LoraConfig(task_type=TaskType.SEQ_CLS, r=4, target_modules=["q_proj", "v_proj"])
        model = get_peft_model(self.build("llama").float(), config)
        with torch.no_grad():
            expected = plain_rewards(model, EXAMPLES)
            scores = RewardScorer(model)(build_rows(EXAMPLES, Layout.SHARED))
        torch.testing.assert_close(scores, expected, rtol=1e-4, atol=1e-4)
        assert scores.dtype == torch.float32

    @pytest.mark.parametrize("name", REWARD_MODELS)
    def test_heads_of_several_numbers(self, name):
        model = self.build(name, labels=3)
        with KeepFloat64():
            expected = plain_rewards(model, EXAMPLES)
            assert expected.shape == (11, 3)
            assert_read_like(RewardScorer(model), expected)

    @pytest.mark.parametrize("labels", [1, 2])
    @pytest.mark.parametrize("name", REWARD_MODELS)
    def test_at_every_token(self, name, labels):
        """A sequence classifier reads the last token of what it is given."""
        model = self.build(name, labels=labels)
        with KeepFloat64():
            expected = torch.cat([model(input_ids=ids).logits for ids in scored_tokens(EXAMPLES)])
            scorer = RewardScorer(model)
            assert_read_like(scorer, expected[:, 0] if labels == 1 else expected, every_token=True)
            # Of a response that is scored to its end, the last one is its score.
            rows = build_rows(EXAMPLES[:2], Layout.SHARED)
            last = scorer(rows, every_token=True)[rows.response_lengths.cumsum(0) - 1]
            assert (last - scorer(rows)).abs().max() <= 1e-9

    @pytest.mark.parametrize("labels", [1, 2])
    @pytest.mark.parametrize("name", TOKEN_CLASSIFIERS)
    def test_token_classifiers(self, name, labels):
        model = self.build(name, TOKEN_CLASSIFIERS, labels)
        with torch.no_grad():
            model.get_submodule("classifier" if name == "gpt2" else "score").bias.normal_()
        # Its dropout stands before the head and is none of the policy's.
        model.eval()
        with KeepFloat64():
            expected = torch.cat([model(input_ids=ids).logits[:, -1] for ids in scored_tokens(EXAMPLES)])
            assert_read_like(RewardScorer(model), expected[:, 0] if labels == 1 else expected, every_token=True)

    def test_rows_of_a_normalised_head(self):
        """They are centred and of unit length, and so is what the gradient passes through."""
        model = self.build("llama", labels=2)
        normalised = copy.deepcopy(model)
        expected_overlap = (self.direction(model, 0) @ self.direction(model, 1)).abs()
        with KeepFloat64():
            scorer = RewardScorer(model, normalised=True)
            for layout in Layout:
                scores = scorer(build_rows(EXAMPLES, layout))
                with torch.no_grad():
                    for k in range(2):
                        normalised.score.weight[k] = self.direction(model, k)
                    expected = plain_rewards(normalised, EXAMPLES)
                assert (scores - expected).abs().max() <= 1e-9
                assert scorer.overlap.item() == pytest.approx(expected_overlap.item(), rel=1e-9)
            (gradient,) = torch.autograd.grad(scorer.overlap, model.score.weight)
        # A longer row, or one with something added to all its numbers, points the same way.
        assert gradient.sum(1).abs().max() < 1e-9
        assert (gradient * model.score.weight).sum(1).abs().max() < 1e-9
        assert gradient.abs().max() > 1e-3

    @staticmethod
    def direction(model, row):
        weight = model.score.weight[row].detach()
        return (weight - weight.mean()) / (weight - weight.mean()).square().sum().sqrt()

    def test_a_language_model_is_refused(self):
        with pytest.raises(ConfigError, match="sequence or token classifier"):
            RewardScorer(tiny_model())(build_rows(EXAMPLES, Layout.SHARED))
