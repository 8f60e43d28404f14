"""A small HTTP server that plays an OpenAI-compatible endpoint by a script, for tests."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


@dataclass
class Answering:
    """How one request is answered. `body` is sent as it is when it is bytes, as JSON otherwise."""

    body: Any = None
    status: int = 200
    headers: dict[str, str] = field(default_factory=dict)
    hang_up: bool = False  # close the connection without an answer


def completion(text: str | None, *, finish: str = "stop", tokens: int = 3, top: list | None = None, **message) -> dict:
    """A chat completion; `top` is a list of {token: logprob} per position."""
    choice: dict[str, Any] = {
        "index": 0,
        "finish_reason": finish,
        "message": {"role": "assistant", "content": text, **message},
    }
    if top is not None:
        choice["logprobs"] = {
            "content": [
                {
                    "token": max(position, key=position.get),
                    "logprob": max(position.values()),
                    "bytes": None,
                    "top_logprobs": [{"token": t, "logprob": p, "bytes": None} for t, p in position.items()],
                }
                for position in top
            ]
        }
    usage = {"prompt_tokens": 7, "completion_tokens": tokens, "total_tokens": 7 + tokens}
    return {"id": "x", "object": "chat.completion", "created": 0, "model": "m", "choices": [choice], "usage": usage}


def failure(status: int, message: str = "no", **more) -> Answering:
    """An error in the form that OpenAI gives it."""
    headers = more.pop("headers", {})
    return Answering({"error": {"message": message, "type": "error", **more}}, status, headers)


class _QuietServer(ThreadingHTTPServer):
    daemon_threads = True

    def handle_error(self, request: object, client_address: object) -> None:
        """Clients that hang up are part of the play."""


Script = Callable[[dict, int], Any]


class ScriptedServer:
    """Answers POST /v1/chat/completions with `script(body, number)`: a text, a completion, or an Answering.

    `bodies` are the requests seen, `keys` the Authorization headers; `models` is what GET /v1/models lists.
    """

    def __init__(self, script: Script, models: tuple[str, ...] | None = ("m",)) -> None:
        self.script, self.models = script, models
        self.bodies: list[dict] = []
        self.keys: list[str | None] = []
        self._lock = threading.Lock()
        self._server = _QuietServer(("127.0.0.1", 0), self._handler())
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}/v1"
        threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()

    def close(self) -> None:
        """Stop serving; later connections are refused."""
        self._server.shutdown()
        self._server.server_close()

    def _chat(self, body: dict, key: str | None) -> Answering:
        with self._lock:
            number = len(self.bodies)
            self.bodies.append(body)
            self.keys.append(key)
        answer = self.script(body, number)
        if isinstance(answer, str):
            answer = completion(answer)
        return answer if isinstance(answer, Answering) else Answering(answer)

    def _models(self) -> Answering:
        if self.models is None:
            return failure(404)
        return Answering({"object": "list", "data": [{"id": name, "object": "model"} for name in self.models]})

    def _handler(self) -> type[BaseHTTPRequestHandler]:
        server = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self) -> None:
                body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                known = self.path == "/v1/chat/completions"
                self.reply(server._chat(body, self.headers["Authorization"]) if known else failure(404))

            def do_GET(self) -> None:
                self.reply(server._models() if self.path == "/v1/models" else failure(404))

            def reply(self, answer: Answering) -> None:
                if answer.hang_up:
                    self.close_connection = True
                    return
                data = answer.body if isinstance(answer.body, bytes) else json.dumps(answer.body).encode()
                self.send_response(answer.status)
                for name, value in ({"Content-Type": "application/json"} | answer.headers).items():
                    self.send_header(name, value)
                self.send_header("Content-Length", str(len(data)))
                self.end_headers()
                self.wfile.write(data)

            def log_message(self, *arguments: object) -> None:
                pass

        return Handler
