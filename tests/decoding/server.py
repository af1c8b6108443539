"""A small OpenAI-compatible server over a tiny model: real HTTP, real logits, and faults on demand."""

from __future__ import annotations

import contextlib
import json
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import torch

END = "</s>"


class Server(ThreadingHTTPServer):
    """It answers ``/v1/completions`` and ``/v1/chat/completions``, one token at a time."""

    daemon_threads = True
    block_on_close = False

    def __init__(self, model: Any, tokenizer: Any) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.model, self.tokenizer = model, tokenizer
        self.faults: list[str] = []
        """What goes wrong with the next requests: a status, or ``slow``, ``trickle``, ``cut``, ``junk``, ``bare``."""
        self.key: str | None = None
        """The key that is asked for."""
        self.seen: list[dict[str, Any]] = []
        """The requests, with their headers."""

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}/v1"

    @torch.no_grad()
    def top(self, ids: list[int], count: int) -> list[tuple[str, float]]:
        """The likeliest next tokens as they are spelled in the API."""
        scores = self.model(input_ids=torch.tensor([ids])).logits[0, -1].double().log_softmax(dim=-1)
        best = scores.topk(min(count, len(scores)))
        return [(self.spelled(int(token)), float(score)) for score, token in zip(*best, strict=True)]

    def spelled(self, token: int) -> str:
        text = self.tokenizer.decode([token])
        return f"bytes:{token}" if "\ufffd" in text else str(text)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Clients that went away are part of the tests."""


class _Handler(BaseHTTPRequestHandler):
    server: Server

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["content-length"])))
        self.server.seen.append({"path": self.path, "body": body, "headers": dict(self.headers)})
        fault = self.server.faults.pop(0) if self.server.faults else ""
        given = self.headers.get("authorization", "")
        if fault.isdigit():
            self.send(int(fault), {"error": {"message": f"no, {given}"}}, {"Retry-After": "0"})
        elif fault == "cut":
            self.connection.close()
        elif fault == "junk":
            self.send(200, "junk")
        elif fault == "bare":
            self.send(200, {"choices": [{"text": "red", "logprobs": None}]})
        elif self.server.key is not None and given != f"Bearer {self.server.key}":
            self.send(401, {"error": {"message": f"incorrect API key provided: {given}"}})
        elif fault == "slow":
            time.sleep(1.0)
            self.answer(body)
        elif fault == "trickle":
            self.trickle()
        else:
            self.answer(body)

    def answer(self, body: dict[str, Any]) -> None:
        server = self.server
        if self.path.endswith("/chat/completions"):
            ids = list(
                server.tokenizer.apply_chat_template(body["messages"], add_generation_prompt=True, return_dict=False)
            )
            top = server.top(ids, body["top_logprobs"])
            entries = [{"token": token, "logprob": score} for token, score in top]
            logprobs: Any = {"content": [{**entries[0], "top_logprobs": entries}]}
            choice = {"message": {"role": "assistant", "content": top[0][0]}, "logprobs": logprobs}
        else:
            ids = list(server.tokenizer(body["prompt"])["input_ids"])
            top = server.top(ids, body["logprobs"])
            choice = {"text": top[0][0], "logprobs": {"tokens": [top[0][0]], "top_logprobs": [dict(top)]}}
        usage = {"prompt_tokens": len(ids), "completion_tokens": 1}
        self.send(200, {"model": body["model"], "choices": [choice], "usage": usage})

    def send(self, status: int, body: Any, headers: dict[str, str] | None = None) -> None:
        data = body.encode() if isinstance(body, str) else json.dumps(body).encode()
        self.send_response(status)
        for name, value in {"Content-Length": str(len(data)), **(headers or {})}.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(data)

    def trickle(self) -> None:
        """Byte after byte, each of them in time."""
        self.send_response(200)
        self.send_header("Content-Length", "1000")
        self.end_headers()
        for _ in range(40):
            self.wfile.write(b" ")
            self.wfile.flush()
            time.sleep(0.05)

    def log_message(self, *args: Any) -> None:
        """Nothing on the terminal."""


@contextlib.contextmanager
def serving(model: Any, tokenizer: Any) -> Iterator[Server]:
    """A server in a thread, on a free port."""
    server = Server(model, tokenizer)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    try:
        yield server
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
