"""An OpenAI-compatible endpoint that says which tokens it finds likeliest next: all that a black box shows.

The key is read from the environment at each request and goes into one header. It is in no attribute, message, file or
log; what the other side sends back is cleared of it before anyone sees it.
"""

from __future__ import annotations

import json
import math
import os
import random
import re
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from deltatune.decoding.kept import Kept
from deltatune.errors import ConfigError, DeltaError

if TYPE_CHECKING:
    import httpx2

__all__ = ["Endpoint", "EndpointError", "Turns", "Usage"]

Turns = Sequence[Mapping[str, str]]
"""A chat: a list of ``{"role": ..., "content": ...}``."""

_TRANSIENT = frozenset({408, 409, 425, 429, 500, 502, 503, 504, 529})
"""The answers that may be others a moment later."""
_FIRST_WAIT, _LONGEST_WAIT = 0.5, 30.0
_LONGEST_ANSWER = 1 << 22
_VARIABLE = re.compile(r"[A-Z_][A-Z0-9_]*")


class EndpointError(DeltaError, RuntimeError):
    """An endpoint can not be reached, refuses, or answers something else than was asked for."""


@dataclass
class Usage:
    """What has been asked of an endpoint so far."""

    requests: int = 0
    """Those that were answered well."""
    retries: int = 0
    cached: int = 0
    """Questions that the cache answered; they cost nothing."""
    prompt_tokens: int = 0
    completion_tokens: int = 0
    seconds: float = 0.0
    """Time spent on requests, with the waits between them."""
    cost: float = 0.0
    """In the currency of the prices; 0 if none were given."""


class Endpoint:
    """An OpenAI-compatible server that answers with its likeliest next tokens and their log-probabilities.

    Args:
        url: up to the version, such as ``"https://api.openai.com/v1"``.
        model: its name there.
        key_variable: the name of the environment variable that holds the key. Default: ``OPENAI_API_KEY``. ``None``
            sends no key.
        top: how many tokens to ask for; OpenAI gives 5 for completions and 20 for chats. Default: 5.
        timeout: seconds for one request. Default: 60.
        patience: seconds for a question with all its retries. Default: 300.
        retries: how often to ask again, with growing waits, after 429, 5xx, a time-out or a broken connection.
            Default: 5.
        cache: a folder where answers are kept, by the question. Default: none are.
        prices: for a million tokens of prompts and of completions, to count costs. Default: not counted.

    Attributes:
        usage: what has been asked so far.

    Raises:
        ConfigError: the URL is none or has a password in it, ``key_variable`` is no name in capitals, or a number is
            out of range.
        DeltaError: the package ``httpx2`` is missing.
    """

    def __init__(
        self,
        url: str,
        model: str,
        *,
        key_variable: str | None = "OPENAI_API_KEY",
        top: int = 5,
        timeout: float = 60.0,
        patience: float = 300.0,
        retries: int = 5,
        cache: str | os.PathLike[str] | None = None,
        prices: tuple[float, float] | None = None,
    ) -> None:
        host, is_plain = _checked(url)
        for name, value in {"top": top, "timeout": timeout, "patience": patience}.items():
            if not value > 0:
                raise ConfigError(f"{name}: expected more than 0, found {value}; the default is a good start")
        # What was given in place of a name may be the key itself, so it is not told.
        if key_variable is not None and not _VARIABLE.fullmatch(key_variable):
            raise ConfigError(
                "key_variable: expected a name such as OPENAI_API_KEY, found another; the key stays there"
            )
        if retries < 0:
            raise ConfigError(f"retries: expected 0 or more, found {retries}; 0 asks once")
        self._is_open = is_plain and host not in ("localhost", "127.0.0.1", "::1")
        self.url, self.model, self.key_variable, self.top = url.rstrip("/"), model, key_variable, top
        self.timeout, self.patience, self.retries = timeout, patience, retries
        self.cache = None if cache is None else Kept(Path(cache).expanduser())
        self.prices, self.usage = prices, Usage()
        self._client: httpx2.Client | None = None

    def __repr__(self) -> str:
        return f"Endpoint({self.url!r}, {self.model!r}, top={self.top})"

    def next_tokens(self, prompt: str | Turns) -> dict[str, float]:
        """The likeliest next tokens with their log-probabilities, the likeliest first.

        Args:
            prompt: text, which ``/completions`` goes on from; or a chat, for the first token of the answer by
                ``/chat/completions``.

        Raises:
            EndpointError: it can not be reached, refuses, or gives no log-probabilities.
        """
        if isinstance(prompt, str):
            body = {"prompt": prompt, "logprobs": self.top}
            return self._ask("/completions", body)
        turns = {"messages": [dict(turn) for turn in prompt], "logprobs": True, "top_logprobs": self.top}
        return self._ask("/chat/completions", turns)

    def close(self) -> None:
        """Close the connection; it opens again when needed."""
        if self._client is not None:
            self._client.close()
            self._client = None

    def _ask(self, path: str, body: dict[str, Any]) -> dict[str, float]:
        question = {"url": self.url + path, "model": self.model, "max_tokens": 1, "temperature": 0, **body}
        if self.cache is not None and (kept := self.cache.find(question)) is not None:
            self.usage.cached += 1
            return kept
        answer = self._post(path, {name: value for name, value in question.items() if name != "url"})
        found = _top(answer)
        if not found:
            raise EndpointError(
                f"{self.url}{path}: expected log-probabilities of {self.model!r}, found none; take an endpoint that "
                "gives them"
            )
        self._count(answer.get("usage"))
        if self.cache is not None:
            self.cache.keep(question, found)
        return found

    def _post(self, path: str, body: dict[str, Any]) -> dict[str, Any]:
        """The answer to a question, asked again while that may help."""
        begun, tries = time.monotonic(), 0
        try:
            while True:
                left = self.patience - (time.monotonic() - begun)
                answer, trouble, wait = self._try(path, body, min(self.timeout, max(left, 0.001)))
                if answer is not None:
                    return answer
                wait = max(wait, min(_FIRST_WAIT * 2**tries, _LONGEST_WAIT) * random.uniform(0.75, 1))
                left = self.patience - (time.monotonic() - begun)
                if tries >= self.retries or wait >= left:
                    raise EndpointError(
                        f"{self.url}{path}: expected an answer, found {trouble} after {tries + 1} "
                        f"{'tries' if tries else 'try'}; try later, or raise retries or patience"
                    )
                time.sleep(wait)
                tries += 1
                self.usage.retries += 1
        finally:
            self.usage.seconds += time.monotonic() - begun

    def _try(self, path: str, body: dict[str, Any], seconds: float) -> tuple[dict[str, Any] | None, str, float]:
        """One request: the answer, or what went wrong in passing, and how long the server asks to wait."""
        httpx2 = _httpx()
        key, trouble = self._secret(), ""
        headers = {"Authorization": f"Bearer {key}"} if key else {}
        try:
            status, asked, text = self._send(path, body, headers, seconds)
        except (httpx2.TimeoutException, TimeoutError):
            return None, f"none within {seconds:.3g} s", 0.0
        except httpx2.TransportError as error:
            return None, f"a broken connection ({_clean(str(error) or type(error).__name__, key)})", 0.0
        except (httpx2.HTTPError, httpx2.InvalidURL, ValueError) as error:
            trouble = _clean(str(error), key)
        if trouble:  # outside of the handler: what it holds has the headers in it
            raise EndpointError(
                f"{self.url}{path}: expected an answer that can be read, found {trouble}; check the URL"
            )
        if status in _TRANSIENT:
            return None, f"status {status}", _wait(asked)
        data = _json(text)
        if status != 200 or not isinstance(data, dict):
            said = data.get("error", data) if isinstance(data, dict) else None
            said = said.get("message", "") if isinstance(said, dict) else said
            detail = f" ({_clean(' '.join(str(said).split()), key)[:200]})" if said else ""
            hint = f"check {self.key_variable}" if status in (401, 403) and self.key_variable else "check url and model"
            what = f"status {status}" if status != 200 else "no JSON"
            raise EndpointError(f"{self.url}{path}: expected an answer, found {what}{detail}; {hint}")
        return data, "", 0.0

    def _send(self, path: str, body: dict[str, Any], headers: dict[str, str], seconds: float) -> tuple[int, str, str]:
        """The status, what the server says of waiting, and the text. The whole answer has to come within the time."""
        if self._client is None:
            self._client = _httpx().Client(follow_redirects=False)
        end, text = time.monotonic() + seconds, bytearray()
        with self._client.stream("POST", self.url + path, json=body, headers=headers, timeout=seconds) as reply:
            for piece in reply.iter_bytes():
                text += piece
                if time.monotonic() > end:
                    raise TimeoutError
                if len(text) > _LONGEST_ANSWER:
                    raise ValueError(f"an answer of more than {_LONGEST_ANSWER:,} bytes")
            return reply.status_code, reply.headers.get("retry-after", ""), text.decode(errors="replace")

    def _secret(self) -> str:
        key = os.environ.get(self.key_variable, "").strip() if self.key_variable else ""
        if key and self._is_open:
            raise ConfigError(
                f"url: expected https where the key in {self.key_variable} is sent, found http; use https, or "
                "key_variable=None"
            )
        if not (key.isascii() and key.isprintable()):
            raise ConfigError(f"{self.key_variable}: expected printable ASCII, found something else; set it again")
        return key

    def _count(self, usage: Any) -> None:
        given = usage if isinstance(usage, dict) else {}
        prompt, completion = (_number(given.get(name)) for name in ("prompt_tokens", "completion_tokens"))
        self.usage.requests += 1
        self.usage.prompt_tokens += prompt
        self.usage.completion_tokens += completion
        if self.prices is not None:
            self.usage.cost += (prompt * self.prices[0] + completion * self.prices[1]) / 1e6


def _checked(url: str) -> tuple[str, bool]:
    """The host of a URL that can be asked, and whether it is asked without encryption."""
    try:
        parts = urlsplit(url)
        host, secret = parts.hostname, parts.username or parts.password or parts.query
    except ValueError:
        host, secret = None, None
    if not host or parts.scheme not in ("http", "https"):
        raise ConfigError("url: expected one such as https://api.openai.com/v1, found another; check it")
    if secret:
        raise ConfigError("url: expected no password or query in it, found one; set the key in the environment")
    return host, parts.scheme == "http"


def _httpx() -> Any:
    try:
        import httpx2
    except ImportError:
        raise DeltaError("Endpoint: needs the package httpx2, found none; run pip install deltatune[api]") from None
    return httpx2


def _top(answer: dict[str, Any]) -> dict[str, float]:
    """The log-probabilities in an answer of either kind, the likeliest first; empty if there are none that fit."""
    try:
        scores = answer["choices"][0]["logprobs"]
        if "content" in scores:
            pairs = [(entry["token"], entry["logprob"]) for entry in scores["content"][0]["top_logprobs"]]
        else:
            pairs = list(scores["top_logprobs"][0].items())
        found = {str(token): float(score) for token, score in pairs}
    except (KeyError, IndexError, TypeError, ValueError, AttributeError):
        return {}
    if not all(math.isfinite(score) for score in found.values()):
        return {}
    return dict(sorted(found.items(), key=lambda pair: -pair[1]))


def _clean(text: str, key: str) -> str:
    """A message without the key in it."""
    return text.replace(key, "[key]") if key else text


def _json(text: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return None


def _wait(asked: str) -> float:
    """The seconds that a server asks to wait, where it says so in seconds."""
    try:
        seconds = float(asked or 0)
    except ValueError:
        return 0.0
    return seconds if math.isfinite(seconds) and seconds > 0 else 0.0


def _number(value: Any) -> int:
    return value if isinstance(value, int) and value > 0 else 0
