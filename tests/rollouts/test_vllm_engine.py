"""vLLM in this process, with a library of the same shape in its place."""

from __future__ import annotations

import json
import math
import sys
from types import ModuleType, SimpleNamespace
from typing import ClassVar

import pytest
import torch

from lit_align.core.errors import ConfigError
from lit_align.core.forward import Scorer
from lit_align.rollouts.engine import Engine, EngineError, PromptError, SyncedEngine
from lit_align.rollouts.hf import generate
from lit_align.rollouts.hf_engine import HFEngine
from lit_align.rollouts.vllm_engine import VLLMEngine
from tests.helpers import build_tiny_tokenizer, tiny_model

PROMPTS = ["a", "The quick brown fox", [{"role": "user", "content": "hi"}]]


class SamplingParams:
    """What vLLM accepts, and nothing else."""

    names = frozenset(
        ("n", "seed", "max_tokens", "temperature", "top_p", "top_k", "min_p", "repetition_penalty", "stop",
         "stop_token_ids", "logprobs", "prompt_logprobs")
    )  # fmt: skip

    def __init__(self, **settings):
        assert set(settings) <= self.names
        self.__dict__ |= {"repetition_penalty": 1.0, "logprobs": None, "prompt_logprobs": None} | settings


class LoRARequest:
    def __init__(self, lora_name, lora_int_id, lora_path):
        self.name, self.number, self.path = lora_name, lora_int_id, lora_path


class LLM:
    """Answers with the tiny model."""

    started: ClassVar[list[LLM]] = []
    refuses = False

    def __init__(self, model, **arguments):
        if LLM.refuses:
            raise ValueError("No available memory for the cache blocks")
        self.model, self.arguments, self.calls, self.seen = model, arguments, [], []
        self.down = False
        self.llm_engine = SimpleNamespace(
            model_config=SimpleNamespace(max_model_len=64),
            engine_core=SimpleNamespace(shutdown=lambda: setattr(self, "down", True)),
        )
        LLM.started.append(self)

    def get_default_sampling_params(self):
        return SamplingParams(repetition_penalty=1.1)

    def collective_rpc(self, method, kwargs):
        self.calls.append((method, kwargs))
        if "broken" in kwargs["weights_path"]:
            raise TypeError("unexpected keyword argument 'weights_path'")

    def reset_prefix_cache(self):
        self.calls.append("reset_prefix_cache")

    def generate(self, prompts, *, sampling_params, lora_request, use_tqdm):
        assert use_tqdm is False
        assert len(prompts) == len(sampling_params)
        self.seen.append((prompts, sampling_params, lora_request))
        return [self.one(prompt["prompt_token_ids"], own) for prompt, own in zip(prompts, sampling_params, strict=True)]

    def one(self, ids, own):
        weighed = None
        if own.prompt_logprobs is not None:
            with torch.no_grad():
                logps = tiny_model(dtype=torch.float64)(torch.tensor([ids])).logits[0].log_softmax(-1)
            weighed = [None, *({t: SimpleNamespace(logprob=float(logps[n, t]))} for n, t in enumerate(ids[1:]))]
        (found,) = generate(
            tiny_model(dtype=torch.float64),
            build_tiny_tokenizer(),
            [ids],
            max_new_tokens=own.max_tokens,
            temperature=own.temperature,
            seed=[getattr(own, "seed", 0)],
            logps=True,
            stop=getattr(own, "stop", ()),
        )
        written = SimpleNamespace(
            token_ids=tuple(found.ids),
            finish_reason="stop" if found.finished else "length",
            logprobs=None
            if own.logprobs is None
            else [{t: SimpleNamespace(logprob=x)} for t, x in zip(found.ids, found.logps, strict=True)],
        )
        return SimpleNamespace(outputs=[written], prompt_logprobs=weighed)


@pytest.fixture(autouse=True)
def library(monkeypatch):
    vllm, requests = ModuleType("vllm"), ModuleType("vllm.lora.request")
    vllm.LLM, vllm.SamplingParams, requests.LoRARequest = LLM, SamplingParams, LoRARequest
    for name, module in {"vllm": vllm, "vllm.lora": ModuleType("vllm.lora"), "vllm.lora.request": requests}.items():
        monkeypatch.setitem(sys.modules, name, module)
    monkeypatch.setattr(LLM, "started", [])
    monkeypatch.setattr(LLM, "refuses", False)


@pytest.fixture
def engine(tiny_model_dir):
    return VLLMEngine(tiny_model_dir)


def folder(path, kind="config.json"):
    path.mkdir()
    (path / kind).write_text(json.dumps({}))
    return path


def test_it_is_an_engine_with_weights_of_its_own(engine):
    assert isinstance(engine, SyncedEngine)
    assert isinstance(engine, Engine)
    assert not isinstance(HFEngine("folder"), SyncedEngine)
    assert LLM.started == []


def test_completions_are_those_of_the_library(engine):
    settings = {"max_new_tokens": 9, "temperature": 1.0, "samples": 2, "seed": 4, "logps": True}
    heard = []
    engine.progress = heard.extend
    found = engine.generate(PROMPTS, **settings)
    expected = generate(tiny_model(dtype=torch.float64), build_tiny_tokenizer(), PROMPTS, **settings)
    assert [one._replace(logps=None) for one in found] == [one._replace(logps=None) for one in expected]
    assert [one.logps for one in found] == [pytest.approx(one.logps, abs=1e-9) for one in expected]
    assert heard == found
    assert (engine.counts.prompts, engine.counts.completions) == (3, 6)
    assert engine.counts.tokens == sum(len(one.ids) for one in found)


def test_what_the_library_is_told(engine, tiny_model_dir):
    engine.generate(["a", "b"], max_new_tokens=3, temperature=0.7, top_p=0.9, min_p=0.1, samples=2, seed=[5, 6, 7, 8])
    (llm,) = LLM.started
    assert llm.model == llm.arguments["tokenizer"] == tiny_model_dir
    assert llm.arguments["logprobs_mode"] == "raw_logprobs"
    assert llm.arguments["enable_prefix_caching"] is True
    assert "enable_lora" not in llm.arguments
    ((prompts, own, adapter),) = llm.seen
    assert [one["prompt_token_ids"] for one in prompts] == [engine.tokenizer(text)["input_ids"] for text in "aabb"]
    assert [one.seed for one in own] == [5, 6, 7, 8]
    assert vars(own[0]) == {
        "n": 1, "seed": 5, "max_tokens": 3, "temperature": 0.7, "top_p": 0.9, "top_k": -1, "min_p": 0.1,
        "repetition_penalty": 1.1, "stop": [], "stop_token_ids": [2], "logprobs": None, "prompt_logprobs": None,
    }  # fmt: skip
    assert adapter is None
    engine.generate(["a"], max_new_tokens=3, top_k=4)
    assert llm.seen[1][1][0].top_k == 4
    assert len(LLM.started) == 1


def test_candidates_are_weighed_as_by_the_model(engine):
    own = HFEngine.of(Scorer(tiny_model(dtype=torch.float64)), build_tiny_tokenizer())
    candidates = [" A", "1", "10", "100"]
    for found, expected in zip(
        engine.token_logps(PROMPTS, candidates), own.token_logps(PROMPTS, candidates), strict=True
    ):
        assert found == pytest.approx(expected, abs=1e-9)
        assert all(math.isfinite(value) for value in found)
    assert engine.token_logps([], ["A"]) == []


def test_prompts_without_room_are_named_and_counted(engine):
    with pytest.raises(PromptError) as error:
        engine.generate(["a", "x" * 60, ""], max_new_tokens=10)
    assert list(error.value.refused) == [2, 3]
    assert engine.counts.refused == 2
    with pytest.raises(PromptError):
        engine.token_logps(["x" * 63], ["A"])


def test_nothing_to_do(engine):
    assert engine.generate([]) == []


def test_weights_are_changed_in_place(engine, tmp_path):
    engine.generate(["a"], max_new_tokens=1)
    round_1 = folder(tmp_path / "round_1")
    engine.sync(round_1)
    (llm,) = LLM.started
    assert llm.calls == [("reload_weights", {"weights_path": str(round_1)}), "reset_prefix_cache"]
    engine.release()
    assert llm.down
    engine.generate(["a"], max_new_tokens=1)
    assert LLM.started[1].model == str(round_1), "what was synced last"


def test_weights_before_the_first_start(engine, tmp_path):
    engine.sync(folder(tmp_path / "round_1"))
    assert LLM.started == []
    engine.generate(["a"], max_new_tokens=1)
    assert LLM.started[0].model == str(tmp_path / "round_1")


def test_weights_by_a_new_start(tiny_model_dir, tmp_path):
    engine = VLLMEngine(tiny_model_dir, sync_by="restart")
    engine.generate(["a"], max_new_tokens=1)
    engine.sync(folder(tmp_path / "round_1"))
    assert LLM.started[0].down
    engine.generate(["a"], max_new_tokens=1)
    assert (LLM.started[1].model, LLM.started[0].calls) == (str(tmp_path / "round_1"), [])


def test_a_reload_that_fails_says_what_to_do(engine, tmp_path):
    engine.generate(["a"], max_new_tokens=1)
    with pytest.raises(EngineError, match="sync_by: restart"):
        engine.sync(folder(tmp_path / "broken"))
    assert LLM.started[0].down, "half-changed weights write nothing"


def test_adapters(tiny_model_dir, tmp_path):
    engine = VLLMEngine(tiny_model_dir, max_lora_rank=16)
    for number in (1, 2):
        engine.sync(folder(tmp_path / str(number), "adapter_config.json"))
        engine.generate(["a"], max_new_tokens=1)
        engine.token_logps(["a"], ["x"])
        for _, _, adapter in LLM.started[0].seen[-2:]:
            assert (adapter.number, adapter.path) == (number, str(tmp_path / str(number)))
    assert (LLM.started[0].arguments["enable_lora"], LLM.started[0].arguments["max_lora_rank"]) == (True, 16)
    assert LLM.started[0].calls == []
    with pytest.raises(ConfigError, match="set max_lora_rank"):
        VLLMEngine(tiny_model_dir).sync(tmp_path / "1")


def test_a_folder_without_weights(engine, tmp_path):
    with pytest.raises(ConfigError, match="export the policy"):
        engine.sync(tmp_path)


def test_the_library_is_not_there(engine, monkeypatch):
    monkeypatch.setitem(sys.modules, "vllm", None)
    with pytest.raises(ConfigError, match=r"pip install 'lit-align\[vllm\]'"):
        engine.generate(["a"])


def test_the_library_does_not_start(engine, monkeypatch):
    monkeypatch.setattr(LLM, "refuses", True)
    with pytest.raises(EngineError, match="No available memory"):
        engine.generate(["a"])


def test_a_completion_that_was_broken_off(engine, monkeypatch):
    monkeypatch.setattr(
        LLM,
        "one",
        lambda self, ids, own: SimpleNamespace(
            outputs=[SimpleNamespace(token_ids=(), finish_reason="abort", logprobs=None)]
        ),
    )
    with pytest.raises(EngineError, match="'abort'"):
        engine.generate(["a"], max_new_tokens=3)


@pytest.mark.parametrize(
    "setting", [{"gpu_memory_utilization": 0.0}, {"tensor_parallel_size": 0}, {"max_lora_rank": 0}]
)
def test_bad_settings_are_refused(setting):
    with pytest.raises(ConfigError, match=next(iter(setting))):
        VLLMEngine("folder", **setting)


@pytest.mark.parametrize("setting", [{"samples": 0}, {"max_new_tokens": 0}, {"top_k": 0}, {"temperature": -1.0}])
def test_bad_wishes_are_refused(engine, setting):
    with pytest.raises(ConfigError, match=next(iter(setting))):
        engine.generate(["a"], **setting)
