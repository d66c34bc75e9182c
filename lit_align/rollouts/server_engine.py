"""An OpenAI-compatible server as an engine, such as `vllm serve`."""

from __future__ import annotations

import os
import uuid
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from pathlib import Path
from typing import Any

from lit_align.core.errors import ConfigError
from lit_align.core.ranges import positive
from lit_align.rollouts.engine import EngineError
from lit_align.rollouts.http_json import JsonServer, RefusedError
from lit_align.rollouts.token_engine import Answer, Request, TokenEngine, Wish, is_adapter


class ServerEngine(TokenEngine):
    """A model behind `/v1/completions`, asked with token ids.

    Each completion is a request with a seed of its own. Log-probabilities are the model's own at temperature 1 where
    the server was started with `--logprobs-mode raw_logprobs`, vLLM's default.

    `sync` needs a server that sees the same folders. For whole models it is started with VLLM_SERVER_DEV_MODE=1 in its
    environment, for adapters with VLLM_ALLOW_RUNTIME_LORA_UPDATING=True and `--enable-lora --max-lora-rank N`.

    Args:
        url: address, such as http://localhost:8000.
        tokenizer: folder or hub name of the model's tokenizer.
        model: name under which the server knows the model; None: the first one that it lists.
        chat_template: Jinja text or file, or `chatml` or `transcript`; None: the tokenizer's.
        api_key_variable: environment variable that holds the key; None: no key.
        timeout: seconds that one answer may take.
        retries: further attempts after one that failed; the wait between them doubles.
        at_once: requests that are under way together.
        revision: of the tokenizer on the hub.
        trust_remote_code: run code that comes with the tokenizer.

    Raises:
        ConfigError: a setting is out of range, or there is no key.
    """

    def __init__(
        self,
        url: str,
        tokenizer: str,
        *,
        model: str | None = None,
        chat_template: str | None = None,
        api_key_variable: str | None = None,
        timeout: float = 600.0,
        retries: int = 5,
        at_once: int = 32,
        revision: str | None = None,
        trust_remote_code: bool = False,
    ) -> None:
        super().__init__(tokenizer, chat_template, revision, trust_remote_code)
        key = None if api_key_variable is None else os.environ.get(api_key_variable)
        if api_key_variable is not None and not key:
            fix = f"export {api_key_variable}=..., or leave api_key_variable out"
            raise ConfigError("the key of the server is missing", got=f"{api_key_variable} is not set", fix=fix)
        self.server = JsonServer(url, key=key, timeout=timeout, retries=retries)
        self.at_once = int(positive("at_once", at_once))
        self.model = model
        self._adapter: str | None = None
        self._listed: list[dict[str, Any]] | None = None

    def sync(self, folder: Path) -> None:
        """Take over weights, or an adapter; see `SyncedEngine.sync`.

        Raises:
            ConfigError: the folder holds no weights, or the server does not allow it.
            EngineError: the server cannot load them.
        """
        path = str(folder.resolve())
        if is_adapter(folder):
            # A name of its own, so that neither an older adapter nor a prefix that was read with it is taken for it.
            name, before = f"lit-align-{uuid.uuid4().hex[:12]}", self._adapter
            self._allowed(
                "/v1/load_lora_adapter",
                {"lora_name": name, "lora_path": path},
                "start it with VLLM_ALLOW_RUNTIME_LORA_UPDATING=True and --enable-lora --max-lora-rank N",
            )
            self._adapter = name
        else:
            before, self._adapter = self._adapter, None
            start = "start it with VLLM_SERVER_DEV_MODE=1"
            self._allowed("/collective_rpc", {"method": "reload_weights", "kwargs": {"weights_path": path}}, start)
            # Keys and values of the old weights.
            self._allowed("/reset_prefix_cache", {}, start)
        if before is not None:
            self.server.ask("/v1/unload_lora_adapter", {"lora_name": before})

    def _allowed(self, path: str, body: dict[str, Any], start: str) -> None:
        try:
            self.server.ask(path, body)
        except RefusedError as error:
            if error.status in (404, 405):
                raise ConfigError("the server cannot change its weights", got=error.got, fix=start) from error
            raise

    def _models(self) -> list[dict[str, Any]]:
        """What the server says of its models."""
        if self._listed is None:
            answer = self.server.ask("/v1/models")
            self._listed = list(answer["data"]) if isinstance(answer, dict) and answer.get("data") else []
            names = [str(one.get("id")) for one in self._listed]
            if not names or (self.model is not None and self.model not in names):
                self._listed = None
                raise ConfigError(
                    "the server has no such model",
                    got=f"model: {self.model}; it has {', '.join(names) or 'none'}",
                    fix="set model to one of them, or leave it out",
                )
            self.model = self.model or names[0]
        return self._listed

    def _limit(self) -> int | None:
        (own,) = [one for one in self._models() if one["id"] == self.model][:1]
        limit: int | None = own.get("max_model_len")
        return limit

    def _complete(self, requests: Sequence[Request], wish: Wish, hear: Callable[[int, Answer], None]) -> None:
        drawing = wish.drawing
        body: dict[str, Any] = {
            "max_tokens": wish.max_new_tokens,
            "temperature": drawing.temperature,
            "top_p": drawing.top_p,
            "top_k": -1 if drawing.top_k is None else drawing.top_k,
            "min_p": drawing.min_p,
            "stop": list(wish.stop),
            "logprobs": 0 if wish.logps else None,
            "return_token_ids": True,
        }
        if self.tokenizer.eos_token_id is not None:
            body["stop_token_ids"] = [self.tokenizer.eos_token_id]
        bodies = [body | {"prompt": request.ids, "seed": request.seed} for request in requests]
        self._ask_all(bodies, lambda place, choice: hear(place, _answer(choice, wish)))

    def _weigh(self, rows: Sequence[list[int]]) -> list[list[float]]:
        found: dict[int, list[float]] = {}
        bodies = [{"prompt": ids, "max_tokens": 1, "temperature": 0.0, "prompt_logprobs": 0} for ids in rows]

        def hear(place: int, choice: dict[str, Any]) -> None:
            steps = choice.get("prompt_logprobs")
            if not steps or len(steps) != len(rows[place]):
                raise EngineError(
                    "the server does not weigh prompts",
                    got=f"prompt_logprobs: {steps if not steps else len(steps)} for {len(rows[place])} tokens",
                    fix="use a server that knows prompt_logprobs, such as vLLM's",
                )
            both = zip(rows[place], steps, strict=True)
            found[place] = [0.0 if step is None else float(step[str(token)]["logprob"]) for token, step in both]

        self._ask_all(bodies, hear)
        return [found[place] for place in range(len(rows))]

    def _ask_all(self, bodies: Sequence[dict[str, Any]], hear: Callable[[int, dict[str, Any]], None]) -> None:
        """Send requests, several at once; hear the answers in this thread as they come."""
        if not bodies:
            return
        self._models()
        common = {"model": self._adapter or self.model, "n": 1}
        pool = ThreadPoolExecutor(self.at_once)
        try:
            places = {
                pool.submit(self.server.ask, "/v1/completions", common | body): place
                for place, body in enumerate(bodies)
            }
            for future in as_completed(places):
                hear(places[future], _choice(future.result()))
        finally:
            # After a failure the others need not be asked.
            pool.shutdown(cancel_futures=True)


def _choice(answer: Any) -> dict[str, Any]:
    """The one completion in an answer."""
    try:
        (choice,) = answer["choices"]
        return dict(choice)
    except (TypeError, KeyError, ValueError) as error:
        raise EngineError("the server's answer holds no completion", got=repr(answer)[:200]) from error


def _answer(choice: dict[str, Any], wish: Wish) -> Answer:
    ids = choice.get("token_ids")
    if ids is None:
        raise EngineError(
            "the server gives no token ids",
            got=f"an answer with {', '.join(sorted(choice))}",
            fix="use a server that knows return_token_ids, such as vLLM's",
        )
    logps = None
    if wish.logps:
        found = (choice.get("logprobs") or {}).get("token_logprobs")
        if found is None:
            raise EngineError("the server gives no log-probabilities", got=f"logprobs: {choice.get('logprobs')!r}")
        logps = [float(value) for value in found]
    return Answer(list(ids), str(choice.get("finish_reason")), logps)
