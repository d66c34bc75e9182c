"""Questions to a server in JSON over HTTP, asked again where it pays."""

from __future__ import annotations

import http.client
import json
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Mapping
from typing import Any

from lit_align.core.errors import ConfigError
from lit_align.core.ranges import not_negative, positive
from lit_align.rollouts.engine import EngineError

_BUSY = {408, 425, 429, 500, 502, 503, 504}
"""Answers that may be other ones a little later."""
_LONGEST_WAIT = 60.0


class RefusedError(EngineError):
    """The server has understood the question and says no.

    Args:
        status: HTTP status.
        url: what was asked.
        message: the server's words.
    """

    def __init__(self, status: int, url: str, message: str) -> None:
        self.status = status
        super().__init__("the server refuses a request", got=f"{url}: {status} {message}", fix=_FIXES.get(status, ""))


_FIXES = {
    401: "set api_key_variable to the environment variable that holds the key",
    403: "set api_key_variable to the environment variable that holds the key",
    404: "check url and model: the server has no such page, or no such model",
}


class JsonServer:
    """A server that is asked with JSON and answers with JSON.

    Args:
        url: its address, such as http://localhost:8000.
        key: sent along as a bearer token; None: nothing.
        timeout: seconds that one answer may take.
        retries: further attempts after one that failed.
        wait: seconds before the first of them; doubled each time.
        sleep: waits; for tests.

    Raises:
        ConfigError: a setting is out of range.
    """

    def __init__(
        self,
        url: str,
        *,
        key: str | None = None,
        timeout: float = 600.0,
        retries: int = 5,
        wait: float = 1.0,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        if not url.startswith(("http://", "https://")):
            raise ConfigError(
                "a server has an address", got=f"url: {url}", fix="give one such as http://localhost:8000"
            )
        self.url = url.rstrip("/").removesuffix("/v1")
        self.key = key
        self.timeout = positive("timeout", timeout)
        self.retries, self.wait = int(not_negative("retries", retries)), not_negative("wait", wait)
        self._sleep = sleep

    def ask(self, path: str, body: Mapping[str, Any] | None = None) -> Any:
        """The server's answer: to a POST of `body`, or a GET without one.

        Requests that are too early, too many, or get lost are sent again.

        Raises:
            RefusedError: the server says no.
            EngineError: there is no answer, or none that can be read.
        """
        for attempt in range(self.retries + 1):
            wait = min(self.wait * 2**attempt, _LONGEST_WAIT)
            try:
                return self._once(path, body)
            except urllib.error.HTTPError as error:
                refused = RefusedError(error.code, self.url + path, _message(error))
                if error.code not in _BUSY or attempt == self.retries:
                    raise refused from error
                wait = _told(error.headers.get("Retry-After")) or wait
            except (OSError, http.client.HTTPException) as error:
                if attempt == self.retries:
                    raise EngineError(
                        "the server does not answer",
                        got=f"{self.url}{path}: {getattr(error, 'reason', None) or error!r}, {attempt + 1} times",
                        fix="check that it runs and that url is its address; raise timeout where it is slow",
                    ) from error
            self._sleep(wait)
        raise AssertionError("the last attempt returns or raises")

    def _once(self, path: str, body: Mapping[str, Any] | None) -> Any:
        headers = {"Content-Type": "application/json"}
        if self.key is not None:
            headers["Authorization"] = f"Bearer {self.key}"
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(self.url + path, data, headers)
        with urllib.request.urlopen(request, timeout=self.timeout) as response:
            text = response.read().decode("utf-8", "replace")
        try:
            # Some pages of vLLM say nothing but that all is well.
            return json.loads(text) if text.strip() else None
        except ValueError:
            if body is not None and not path.endswith("/completions"):
                return text
            fix = "check that url is the address of an OpenAI-compatible server"
            raise EngineError(
                "the server's answer is no JSON", got=f"{self.url}{path}: {text[:120]!r}", fix=fix
            ) from None


def _message(error: urllib.error.HTTPError) -> str:
    """What the server says of an error, in one line."""
    try:
        text = error.read().decode("utf-8", "replace")
        found = json.loads(text)
    except (OSError, ValueError, http.client.HTTPException):
        return error.reason if isinstance(error.reason, str) else ""
    inner = found.get("error", found) if isinstance(found, dict) else found
    said = inner.get("message", inner.get("detail", inner)) if isinstance(inner, dict) else inner
    return " ".join(str(said).split())[:500]


def _told(seconds: str | None) -> float | None:
    """How long the server wants to be left alone."""
    try:
        return min(max(float(seconds or 0.0), 0.0), _LONGEST_WAIT)
    except ValueError:
        return None
