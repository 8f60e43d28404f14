"""A scripted endpoint and clients of it."""

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))


@pytest.fixture(autouse=True)
def own_surroundings(monkeypatch: pytest.MonkeyPatch) -> None:
    """No key, no organisation and no proxy of the machine that the tests run on."""
    for name in ("OPENAI_API_KEY", "OPENAI_ORG_ID", "OPENAI_PROJECT_ID", "OPENAI_BASE_URL"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("NO_PROXY", "*")


@pytest.fixture
def serve():
    """`serve(script, models=("m",)) -> ScriptedServer`, closed at the end."""
    from scripted import ScriptedServer

    servers = []

    def start(script, models=("m",)):
        servers.append(ScriptedServer(script, models))
        return servers[-1]

    yield start
    for server in servers:
        server.close()


@pytest.fixture
def open_client():
    """`open_client(server or url, **options) -> ChatClient` that waits milliseconds between attempts."""
    from ultrafuser.endpoint import ChatClient

    clients = []

    def start(server, *, timeout=60, **options):
        url = server if isinstance(server, str) else server.url
        clients.append(ChatClient(url, **({"backoff": 0.01, "timeout": timeout} | options)))
        return clients[-1]

    yield start
    for client in clients:
        client.close()
