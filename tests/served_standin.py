"""A server of one model on loopback that answers as vLLM, SGLang and others do, with faults on demand."""

from __future__ import annotations

import json
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase

NAME = "owner/teacher"


@dataclass
class Standin:
    """A model, what is wrong with its server, and what it was asked.

    Attributes:
        max_logprobs: the most that vLLM gives, as its option of that name.
        context: tokens that are read, the generated one included.
        names: of the models that are listed.
        token_ids: whether echoed tokens are written ``token_id:42``, as one of vLLM's options has it.
        key: that requests must bring.
        statuses: answers in place of the next ones, with their messages and headers.
        loading: addresses that answer 503 once.
        delay: seconds before the answer about a text.
        barrier: so many requests are answered together.
        garble: changes an answer before it is sent.
        asked: bodies of requests, in their order.
        together: requests that were at work at one time, at most.
    """

    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase
    max_logprobs: int = 259
    context: int = 128
    names: list[str] = field(default_factory=lambda: [NAME])
    token_ids: bool = False
    key: str | None = None
    statuses: list[tuple[int, str, dict[str, str]]] = field(default_factory=list)
    loading: list[str] = field(default_factory=list)
    delay: float = 0.0
    barrier: threading.Barrier | None = None
    garble: Callable[[dict[str, Any]], Any] = lambda answer: answer
    asked: list[dict[str, Any]] = field(default_factory=list)
    together: int = 0
    address: str = ""
    _at_work: int = 0
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def log_probs(self, ids: list[int]) -> Tensor:
        """``[L, V]``: of the token after each, by one plain forward."""
        with self._lock, torch.no_grad():
            return self.model(torch.tensor([ids])).logits[0].float().log_softmax(-1)

    def count(self, begun: int) -> None:
        """Note a request that begins or ends."""
        with self._lock:
            self._at_work += begun
            self.together = max(self.together, self._at_work)

    def complete(self, body: dict[str, Any]) -> tuple[int, Any]:
        """OpenAI's completions with vLLM's additions."""
        if body["model"] not in self.names:
            return 404, {"error": {"message": f"The model `{body['model']}` does not exist."}}
        ids, k = body["prompt"], body.get("prompt_logprobs") or body.get("logprobs")
        if len(ids) + body["max_tokens"] > self.context:
            return 400, {"error": {"message": f"This model's maximum context length is {self.context} tokens."}}
        if k > self.max_logprobs:
            words = f"Requested prompt logprobs of {k}, which is greater than max allowed: {self.max_logprobs}"
            return 400, {"error": {"message": words, "type": "BadRequestError", "code": 400}}
        entries = [None, *self.entries(ids, k)]
        choice = {"index": 0, "text": "x", "finish_reason": "length", "logprobs": None}
        if body.get("echo"):
            names = [None, *([self.name(number) for number in entry] for entry in entries[1:])]
            choice["logprobs"] = {
                "tokens": [self.name(number) for number in ids],
                "token_logprobs": [None, *(entry[n]["logprob"] for n, entry in zip(ids[1:], entries[1:], strict=True))],
                "top_logprobs": [
                    entry and dict(zip(named, (one["logprob"] for one in entry.values()), strict=True))
                    for named, entry in zip(names, entries, strict=True)
                ],
                "text_offset": [0] * len(ids),
            }
        else:
            choice["prompt_logprobs"] = entries
            choice["prompt_token_ids"] = ids if body.get("return_token_ids") else None
        return 200, {"id": "cmpl-1", "object": "text_completion", "model": body["model"], "choices": [choice]}

    def name(self, token: int) -> str:
        return f"token_id:{token}" if self.token_ids else self.tokenizer.decode([token])

    def entries(self, ids: list[int], k: int) -> Iterator[dict[int, dict[str, Any]]]:
        """What vLLM says of each token but the first: its own entry, then the k likeliest."""
        for row, own in zip(self.log_probs(ids), ids[1:], strict=False):
            top = row.topk(k)
            ranks = {own: int((row >= row[own]).sum())} | {n: i for i, n in enumerate(top.indices.tolist(), 1)}
            yield {
                number: {
                    "logprob": max(row[number].item(), -9999.0),
                    "rank": rank,
                    "decoded_token": self.tokenizer.decode([number]),
                }
                for number, rank in ranks.items()
            }

    def generate(self, body: dict[str, Any]) -> tuple[int, Any]:
        """SGLang's own."""
        ids, first, k = body["input_ids"], body["logprob_start_len"], body["top_logprobs_num"]
        rows = self.log_probs(ids)[first:-1]
        last = rows.shape[1] - 1

        def name(value: float, number: int) -> list[Any]:
            return [value, number, self.tokenizer.decode([number])]

        own = [name(row[n].item(), n if n < last else 0) for n, row in zip(ids[first + 1 :], rows, strict=True)]
        tops = [[name(*one) for one in zip(*map(Tensor.tolist, row.topk(k)), strict=True)] for row in rows]
        begin = [None, ids[first], self.tokenizer.decode([ids[first]])]
        meta = {"input_token_logprobs": [begin, *own], "input_top_logprobs": [None, *tops], "prompt_tokens": len(ids)}
        return 200, {"text": "x", "output_ids": [1], "meta_info": meta}

    def answer(self, path: str, body: dict[str, Any], key: str | None) -> tuple[int, Any, dict[str, str]]:
        if self.key is not None and key != f"Bearer {self.key}":
            return 401, {"error": f"Unauthorized: {key}"}, {}
        if path in self.loading:
            self.loading.remove(path)
            return 503, {"error": "loading"}, {}
        if path == "/v1/models":
            card = {"object": "model", "owned_by": "vllm", "root": "/models/teacher", "max_model_len": self.context}
            return 200, {"object": "list", "data": [{"id": name, **card} for name in self.names]}, {}
        if path == "/version":
            return 200, {"version": "0.11.0"}, {}
        self.asked.append(body)
        if self.statuses:
            status, message, headers = self.statuses.pop(0)
            return status, {"error": {"message": message}}, headers
        status, answer = {"/v1/completions": self.complete, "/generate": self.generate}[path](body)
        return status, self.garble(answer) if status == 200 else answer, {}


@contextmanager
def serve(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> Iterator[Standin]:
    """A server that answers at ``address`` until the block ends."""
    standin, stopped = Standin(model, tokenizer), threading.Event()
    handler = type("Handler", (_Handler,), {"standin": standin, "stopped": stopped})
    with _Server(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        standin.address = f"http://127.0.0.1:{server.server_port}/v1"
        try:
            yield standin
        finally:
            stopped.set()
            server.shutdown()
            thread.join()


class _Server(ThreadingHTTPServer):
    daemon_threads = True

    def handle_error(self, request: Any, client_address: Any) -> None:
        if not isinstance(sys.exception(), OSError):  # whoever asked has gone
            super().handle_error(request, client_address)


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    standin: Standin
    stopped: threading.Event

    def log_message(self, *_: object) -> None:
        pass

    def do_GET(self) -> None:
        standin, length = self.standin, int(self.headers.get("Content-Length") or 0)
        content = self.rfile.read(length)
        if len(content) < length:  # whoever asked has gone
            return
        body = json.loads(content or b"{}")
        standin.count(1)
        if self.command == "POST":
            self.stopped.wait(standin.delay)
            if standin.barrier is not None:
                standin.barrier.wait(60)
        status, answer, headers = standin.answer(self.path, body, self.headers.get("Authorization"))
        standin.count(-1)
        content = answer if isinstance(answer, bytes) else json.dumps(answer).encode()
        self.send_response(status)
        for name, value in {"Content-Length": str(len(content)), **headers}.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(content)

    def do_POST(self) -> None:
        self.do_GET()
