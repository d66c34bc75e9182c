"""vLLM in this process as an engine; an optional extra, for GPUs."""

from __future__ import annotations

import gc
import importlib
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from lit_align.core.errors import ConfigError
from lit_align.core.ranges import positive, share
from lit_align.rollouts.engine import EngineError
from lit_align.rollouts.token_engine import Answer, Request, TokenEngine, Wish, is_adapter


class VLLMEngine(TokenEngine):
    """A model in vLLM; it loads at first use.

    Each completion is a request with a seed of its own; samples of a prompt share its keys and values through vLLM's
    prefix cache. The words differ from those of `HFEngine` with the same seed: vLLM draws in its own way. They may
    also differ where requests meet in other batches, which rounds differently.

    Args:
        model: folder or hub name.
        tokenizer: folder or hub name; None: the model's.
        chat_template: Jinja text or file, or `chatml` or `transcript`; None: the tokenizer's.
        dtype: dtype of the weights; auto: as they were saved, but half precision for float32.
        gpu_memory_utilization: share of the GPU's memory for weights and keys and values. Lower it where training
            happens on the same GPU.
        max_model_len: tokens of a prompt and its completion together; None: as the model's configuration says.
        tensor_parallel_size: GPUs that share the model.
        max_lora_rank: largest rank of adapters; None: whole models only. `sync` needs it for adapters.
        sync_by: reload changes the weights in place; restart starts vLLM anew with the new folder, which is slow and
            works for every model.
        revision: branch, tag or commit on the hub.
        trust_remote_code: run code that comes with the model.
        options: further arguments of `vllm.LLM`.

    Raises:
        ConfigError: a setting is out of range.
    """

    def __init__(
        self,
        model: str | Path,
        *,
        tokenizer: str | None = None,
        chat_template: str | None = None,
        dtype: str = "auto",
        gpu_memory_utilization: float = 0.5,
        max_model_len: int | None = None,
        tensor_parallel_size: int = 1,
        max_lora_rank: int | None = None,
        sync_by: Literal["reload", "restart"] = "reload",
        revision: str | None = None,
        trust_remote_code: bool = False,
        options: Mapping[str, Any] | None = None,
    ) -> None:
        self.name = str(model)
        super().__init__(tokenizer or self.name, chat_template, None if tokenizer else revision, trust_remote_code)
        self.sync_by = sync_by
        self.arguments: dict[str, Any] = {
            "dtype": dtype,
            "gpu_memory_utilization": positive(
                "gpu_memory_utilization", share("gpu_memory_utilization", gpu_memory_utilization)
            ),
            "max_model_len": max_model_len,
            "tensor_parallel_size": int(positive("tensor_parallel_size", tensor_parallel_size)),
            "trust_remote_code": trust_remote_code,
            "enable_prefix_caching": True,
            # Of the model, whatever temperature and cut-offs have made of them.
            "logprobs_mode": "raw_logprobs",
            "seed": 0,
        }
        if max_lora_rank is not None:
            rank = int(positive("max_lora_rank", max_lora_rank))
            self.arguments |= {"enable_lora": True, "max_lora_rank": rank, "max_loras": 1}
        self.arguments |= dict(options or {})
        self._revision_of_model = revision
        self._llm: Any = None
        self._adapter: Any = None
        self._adapters = 0

    @property
    def llm(self) -> Any:
        """The `vllm.LLM`.

        Raises:
            ConfigError: vLLM is not installed.
            EngineError: it does not start.
        """
        if self._llm is None:
            vllm = _vllm()
            try:
                self._llm = vllm.LLM(
                    model=self.name, tokenizer=self.tokenizer_name, revision=self._revision_of_model, **self.arguments
                )
            # Of many types: the model, the GPU's memory, another process that has failed.
            except Exception as error:
                raise EngineError(
                    "vLLM does not start",
                    got=f"{type(error).__name__}: {error}",
                    fix="see its own messages above; with too little memory, change gpu_memory_utilization or "
                    "max_model_len",
                ) from error
        return self._llm

    def release(self) -> None:
        """Give back the GPU; the model loads again at the next call, with the weights that were synced last."""
        if self._llm is None:
            return
        core: Any = getattr(getattr(self._llm, "llm_engine", None), "engine_core", None)
        if hasattr(core, "shutdown"):
            core.shutdown()
        self._llm = None
        gc.collect()

    def sync(self, folder: Path) -> None:
        """Take over weights, or an adapter; see `SyncedEngine.sync`.

        Raises:
            ConfigError: the folder holds no weights, or an adapter that vLLM was not started for.
            EngineError: vLLM refuses them.
        """
        if is_adapter(folder):
            self._take_adapter(folder)
            return
        self.name, self._revision_of_model, self._adapter = str(folder), None, None
        if self._llm is None:
            return
        if self.sync_by == "restart":
            self.release()
            return
        try:
            self.llm.collective_rpc("reload_weights", kwargs={"weights_path": self.name})
        except Exception as error:
            # Weights half of which are new are of no use.
            self.release()
            raise EngineError(
                "vLLM cannot change the weights in place",
                got=f"{type(error).__name__}: {error}",
                fix="set sync_by: restart",
            ) from error
        # Keys and values of the old weights.
        self.llm.reset_prefix_cache()

    def _take_adapter(self, folder: Path) -> None:
        if not self.arguments.get("enable_lora"):
            raise ConfigError(
                "vLLM was not started for adapters",
                got=str(folder),
                fix="set max_lora_rank to the adapter's rank; or export the policy with the adapter merged",
            )
        requests = importlib.import_module("vllm.lora.request")
        # A number of its own: vLLM knows adapters, and prefixes that were read with them, by their numbers.
        self._adapters += 1
        self._adapter = requests.LoRARequest(f"policy-{self._adapters}", self._adapters, str(folder))

    def _limit(self) -> int | None:
        limit: int = self.llm.llm_engine.model_config.max_model_len
        return limit

    def _complete(self, requests: Sequence[Request], wish: Wish, hear: Callable[[int, Answer], None]) -> None:
        drawing = wish.drawing
        usual = self.llm.get_default_sampling_params()
        settings = [
            _vllm().SamplingParams(
                n=1,
                seed=request.seed,
                max_tokens=wish.max_new_tokens,
                temperature=drawing.temperature,
                top_p=drawing.top_p,
                top_k=-1 if drawing.top_k is None else drawing.top_k,
                min_p=drawing.min_p,
                repetition_penalty=usual.repetition_penalty,
                stop=list(wish.stop),
                # Those of the model's generation config end a completion anyway.
                stop_token_ids=[] if self.tokenizer.eos_token_id is None else [self.tokenizer.eos_token_id],
                logprobs=0 if wish.logps else None,
            )
            for request in requests
        ]
        for place, output in enumerate(self._run([request.ids for request in requests], settings)):
            (written,) = output.outputs
            ids = list(written.token_ids)
            logps = None
            if wish.logps:
                logps = [step[token].logprob for token, step in zip(ids, written.logprobs or [], strict=True)]
            hear(place, Answer(ids, str(written.finish_reason), logps))

    def _weigh(self, rows: Sequence[list[int]]) -> list[list[float]]:
        settings = _vllm().SamplingParams(temperature=0.0, max_tokens=1, prompt_logprobs=0)
        outputs = self._run(rows, [settings] * len(rows))
        return [
            [
                0.0 if step is None else step[token].logprob
                for token, step in zip(ids, found.prompt_logprobs, strict=True)
            ]
            for ids, found in zip(rows, outputs, strict=True)
        ]

    def _run(self, rows: Sequence[list[int]], settings: Sequence[Any]) -> list[Any]:
        """Outputs, in the order of the rows."""
        if not rows:
            return []
        prompts = [{"prompt_token_ids": ids} for ids in rows]
        outputs: list[Any] = self.llm.generate(
            prompts, sampling_params=list(settings), lora_request=self._adapter, use_tqdm=False
        )
        return outputs


def _vllm() -> Any:
    """The library.

    Raises:
        ConfigError: it is not installed, or cannot be loaded.
    """
    try:
        return importlib.import_module("vllm")
    except ImportError as error:
        raise ConfigError(
            "this engine needs vLLM",
            got=f"import vllm: {error}",
            fix="pip install 'lit-align[vllm]' (Linux with a GPU), or use HFEngine",
        ) from error
