"""A server as an engine, with one on this machine that speaks as vLLM's does."""

from __future__ import annotations

import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
import torch

from lit_align.core.errors import ConfigError
from lit_align.core.forward import Scorer
from lit_align.rollouts.engine import EngineError, PromptError, SyncedEngine
from lit_align.rollouts.hf import generate
from lit_align.rollouts.hf_engine import HFEngine
from lit_align.rollouts.server_engine import ServerEngine
from tests.helpers import build_tiny_tokenizer, tiny_model

PROMPTS = ["a", "The quick brown fox", [{"role": "user", "content": "hi"}]]
FIELDS = frozenset(
    ("model", "prompt", "n", "max_tokens", "temperature", "top_p", "top_k", "min_p", "stop", "stop_token_ids", "seed",
     "logprobs", "return_token_ids", "prompt_logprobs")
)  # fmt: skip


class Server:
    """Answers with the tiny model; `troubles` come before answers, by path."""

    def __init__(self):
        self.asked, self.troubles, self.missing, self.keys = [], {}, set(), set()
        self.models = [{"id": "policy", "max_model_len": 64}]
        self.change = lambda choice: choice
        self.model, self.tokenizer = tiny_model(dtype=torch.float64), build_tiny_tokenizer()
        self.lock = threading.Lock()
        server = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self):
                self.respond(None)

            def do_POST(self):
                self.respond(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))

            def respond(self, body):
                with server.lock:
                    status, answer, headers = server.answer(self.path, body, self.headers.get("Authorization"))
                data = answer.encode() if isinstance(answer, str) else json.dumps(answer).encode()
                self.send_response(status)
                for name, value in headers.items():
                    self.send_header(name, value)
                self.send_header("Content-Length", str(len(data)))
                self.end_headers()
                self.wfile.write(data)

            def log_message(self, *_):
                pass

        self.http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        # Those who have stopped listening are no news.
        self.http.handle_error = lambda *_: None
        self.url = f"http://127.0.0.1:{self.http.server_address[1]}"
        threading.Thread(target=self.http.serve_forever, args=(0.02,), daemon=True).start()

    def answer(self, path, body, key):
        self.asked.append((path, body))
        self.keys.add(key)
        if self.troubles.get(path):
            return self.troubles[path].pop(0)
        if path in self.missing:
            return 404, {"detail": "Not Found"}, {}
        if path == "/v1/models":
            return 200, {"data": self.models}, {}
        if path == "/v1/completions":
            return 200, {"choices": [self.change(self.complete(body))]}, {}
        # vLLM's other pages answer with words or nothing.
        return 200, "Success: done." if "lora" in path else "", {}

    def complete(self, body):
        assert set(body) <= FIELDS
        (found,) = generate(
            self.model, self.tokenizer, [body["prompt"]], max_new_tokens=body["max_tokens"],
            temperature=body["temperature"], seed=[body.get("seed", 0)], stop=body.get("stop", ()), logps=True,
        )  # fmt: skip
        choice = {"text": found.text, "finish_reason": "stop" if found.finished else "length"}
        if body.get("return_token_ids"):
            choice["token_ids"] = found.ids
        if body.get("logprobs") is not None:
            choice["logprobs"] = {"token_logprobs": found.logps}
        if body.get("prompt_logprobs") is not None:
            with torch.no_grad():
                logps = self.model(torch.tensor([body["prompt"]])).logits[0].log_softmax(-1)
            steps = [{str(t): {"logprob": float(logps[n, t])}} for n, t in enumerate(body["prompt"][1:])]
            choice["prompt_logprobs"] = [None, *steps]
        return choice

    def paths(self):
        return [path for path, _ in self.asked]


@pytest.fixture
def server():
    server = Server()
    yield server
    server.http.shutdown()
    server.http.server_close()


@pytest.fixture
def waits():
    return []


@pytest.fixture
def engine(server, tiny_model_dir, waits):
    engine = ServerEngine(server.url + "/v1/", tiny_model_dir, retries=2, at_once=4)
    engine.server._sleep = waits.append
    return engine


def folder(path, kind="config.json"):
    path.mkdir()
    (path / kind).write_text("{}")
    return path


def test_completions_are_those_of_the_server(engine, server):
    assert isinstance(engine, SyncedEngine)
    settings = {"max_new_tokens": 9, "temperature": 1.0, "samples": 2, "seed": 4, "logps": True, "stop": ["e"]}
    heard = []
    engine.progress = heard.extend
    found = engine.generate(PROMPTS, **settings)
    expected = generate(server.model, server.tokenizer, PROMPTS, **settings)
    assert [one._replace(logps=None) for one in found] == [one._replace(logps=None) for one in expected]
    assert [one.logps for one in found] == [pytest.approx(one.logps, abs=1e-9) for one in expected]
    assert sorted(map(id, heard)) == sorted(map(id, found))
    assert engine.counts.completions == 6
    assert engine.generate(["a"], max_new_tokens=2)[0].logps is None


def test_what_the_server_is_told(engine, server):
    engine.generate(["a"], max_new_tokens=3, temperature=0.7, top_p=0.9, min_p=0.1, samples=2, seed=[5, 6], stop=["E"])
    assert server.paths() == ["/v1/models", "/v1/completions", "/v1/completions"]
    bodies = sorted((body for _, body in server.asked[1:]), key=lambda body: body["seed"])
    assert bodies[0] == {
        "model": "policy", "n": 1, "prompt": engine.tokenizer("a")["input_ids"], "max_tokens": 3, "temperature": 0.7,
        "top_p": 0.9, "top_k": -1, "min_p": 0.1, "stop": ["E"], "stop_token_ids": [2], "seed": 5, "logprobs": None,
        "return_token_ids": True,
    }  # fmt: skip
    assert bodies[1] == bodies[0] | {"seed": 6}


def test_candidates_are_weighed_as_by_the_model(engine):
    own = HFEngine.of(Scorer(tiny_model(dtype=torch.float64)), build_tiny_tokenizer())
    candidates = [" A", "1", "10"]
    for found, expected in zip(
        engine.token_logps(PROMPTS, candidates), own.token_logps(PROMPTS, candidates), strict=True
    ):
        assert found == pytest.approx(expected, abs=1e-9)


def test_prompts_without_room(engine):
    with pytest.raises(PromptError) as error:
        engine.generate(["a", "x" * 60], max_new_tokens=10)
    assert list(error.value.refused) == [2]


def test_a_server_that_is_busy_is_asked_again(engine, server, waits):
    server.troubles["/v1/completions"] = [(503, "loading", {}), (429, "slow down", {"Retry-After": "7"})]
    assert len(engine.generate(["a"], max_new_tokens=2)) == 1
    assert waits == [1.0, 7.0]


def test_patience_ends(engine, server, waits):
    server.troubles["/v1/completions"] = [(500, {"error": {"message": "EngineCore\nis dead"}}, {})] * 3
    with pytest.raises(EngineError, match="500 EngineCore is dead"):
        engine.generate(["a"], max_new_tokens=2)
    assert waits == [1.0, 2.0]


def test_a_request_that_is_wrong_is_not_sent_again(engine, server, waits):
    server.troubles["/v1/completions"] = [(400, {"error": {"message": "top_k must be -1"}}, {})]
    with pytest.raises(EngineError, match="400 top_k must be -1"):
        engine.generate(["a"], max_new_tokens=2)
    assert waits == []


def test_after_a_failure_nothing_more_is_asked(engine, server):
    server.troubles["/v1/completions"] = [(400, {"detail": "no"}, {})] * 100
    engine.at_once = 1
    with pytest.raises(EngineError, match="400 no"):
        engine.generate(["a"] * 50, max_new_tokens=2)
    assert len(server.asked) < 20


def test_nobody_is_there(tiny_model_dir):
    engine = ServerEngine("http://127.0.0.1:9", tiny_model_dir, retries=1, timeout=2)
    engine.server._sleep = lambda _: None
    with pytest.raises(EngineError, match=r"refused.*2 times"):
        engine.generate(["a"])


def test_a_server_that_says_nothing(engine, server, waits):
    engine.server.timeout = 0.05
    server.lock.acquire()
    try:
        with pytest.raises(EngineError, match="does not answer"):
            engine.generate(["a"])
    finally:
        server.lock.release()
    assert len(waits) == 2


def test_it_is_no_such_server(engine, server):
    server.troubles["/v1/models"] = [(200, "<html>", {})]
    with pytest.raises(EngineError, match="no JSON"):
        engine.generate(["a"])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda choice: choice.pop("token_ids"), "no token ids"),
        (lambda choice: choice.pop("logprobs"), "no log-probabilities"),
        (lambda choice: choice["logprobs"]["token_logprobs"].pop(), "does not fit together"),
        (lambda choice: choice.update(finish_reason="abort"), "'abort'"),
    ],
)
def test_answers_that_lack_something(engine, server, change, message):
    server.change = lambda choice: (change(choice), choice)[1]
    with pytest.raises(EngineError, match=message):
        engine.generate(["a"], max_new_tokens=2, logps=True)


def test_servers_that_cannot_weigh(engine, server):
    server.change = lambda choice: choice | {"prompt_logprobs": None}
    with pytest.raises(EngineError, match="does not weigh prompts"):
        engine.token_logps(["a"], ["x", "y"])


def test_names_of_models(server, tiny_model_dir):
    server.models = [{"id": "one"}, {"id": "two", "max_model_len": 30}]
    ServerEngine(server.url, tiny_model_dir, model="two").generate(["a"], max_new_tokens=2)
    assert server.asked[-1][1]["model"] == "two"
    ServerEngine(server.url, tiny_model_dir).generate(["a"], max_new_tokens=2)
    assert server.asked[-1][1]["model"] == "one"
    with pytest.raises(ConfigError, match="model: three; it has one, two"):
        ServerEngine(server.url, tiny_model_dir, model="three").generate(["a"])
    server.models = []
    with pytest.raises(ConfigError, match="it has none"):
        ServerEngine(server.url, tiny_model_dir).generate(["a"])


def test_the_key(server, tiny_model_dir, monkeypatch):
    with pytest.raises(ConfigError, match="MY_KEY is not set"):
        ServerEngine(server.url, tiny_model_dir, api_key_variable="MY_KEY")
    monkeypatch.setenv("MY_KEY", "open sesame")
    ServerEngine(server.url, tiny_model_dir, api_key_variable="MY_KEY").generate(["a"], max_new_tokens=2)
    assert server.keys == {"Bearer open sesame"}


def test_weights_are_reloaded(engine, server, tmp_path):
    engine.sync(folder(tmp_path / "round_1"))
    body = {"method": "reload_weights", "kwargs": {"weights_path": str(tmp_path / "round_1")}}
    assert server.asked == [("/collective_rpc", body), ("/reset_prefix_cache", {})]


def test_adapters_are_loaded_under_new_names(engine, server, tmp_path):
    names = []
    for number in (1, 2):
        engine.sync(folder(tmp_path / str(number), "adapter_config.json"))
        engine.generate(["a"], max_new_tokens=2)
        names.append(server.asked[-1][1]["model"])
    assert len({*names, "policy"}) == 3
    loaded = [body for path, body in server.asked if path == "/v1/load_lora_adapter"]
    expected = [
        {"lora_name": name, "lora_path": str(tmp_path / number)} for name, number in zip(names, "12", strict=True)
    ]
    assert loaded == expected
    assert ("/v1/unload_lora_adapter", {"lora_name": names[0]}) in server.asked
    engine.sync(folder(tmp_path / "whole"))
    engine.generate(["a"], max_new_tokens=2)
    assert server.asked[-1][1]["model"] == "policy"


@pytest.mark.parametrize(
    ("kind", "path", "fix"),
    [
        ("config.json", "/collective_rpc", "VLLM_SERVER_DEV_MODE=1"),
        ("adapter_config.json", "/v1/load_lora_adapter", "VLLM_ALLOW_RUNTIME_LORA_UPDATING"),
    ],
)
def test_a_server_that_does_not_change_its_weights(engine, server, tmp_path, kind, path, fix):
    server.missing.add(path)
    with pytest.raises(ConfigError, match=fix):
        engine.sync(folder(tmp_path / "round_1", kind))


def test_weights_that_the_server_cannot_load(engine, server, tmp_path, waits):
    server.troubles["/collective_rpc"] = [(500, {"error": {"message": "no safetensors"}}, {})] * 3
    with pytest.raises(EngineError, match="no safetensors"):
        engine.sync(folder(tmp_path / "round_1"))


@pytest.mark.parametrize("setting", [{"url": "localhost:8000"}, {"timeout": 0}, {"retries": -1}, {"at_once": 0}])
def test_bad_settings_are_refused(setting):
    with pytest.raises(ConfigError, match=next(iter(setting))):
        ServerEngine(**({"url": "http://localhost:8000", "tokenizer": "folder"} | setting))
