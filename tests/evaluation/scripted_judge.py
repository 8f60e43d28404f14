"""Judges and subjects that talk to a scripted server, for tests."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1] / "endpoint"))

from scripted import Answering, Script, ScriptedServer, completion, failure

from ultrafuser.endpoint import ChatClient
from ultrafuser.evaluation.judges import LLMJudge

__all__ = ["Answering", "client_of", "completion", "failure", "judge_of", "said"]


def said(body: dict) -> str:
    """The request's last message."""
    return body["messages"][-1]["content"]


@contextmanager
def client_of(
    script: Script, models: tuple[str, ...] | None = ("m",), **options
) -> Iterator[tuple[ChatClient, ScriptedServer]]:
    """A client that waits milliseconds between attempts, and its server."""
    os.environ["NO_PROXY"] = "*"
    server = ScriptedServer(script, models)
    client = ChatClient(server.url, api_key="k", **({"backoff": 0.01, "timeout": 60} | options))
    try:
        yield client, server
    finally:
        client.close()
        server.close()


@contextmanager
def judge_of(script: Script, models: tuple[str, ...] = ("m",), **options) -> Iterator[tuple[LLMJudge, ScriptedServer]]:
    """An LLM judge, and its server."""
    with client_of(script, models, **({"model": models[0]} | options)) as (client, server):
        yield LLMJudge(client), server
