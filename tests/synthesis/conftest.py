"""A scripted endpoint that writes topics, instructions and answers by what it is asked, and specs that use it."""

import sys
from pathlib import Path

import pytest

sys.path[:0] = [str(Path(__file__).parent), str(Path(__file__).parents[1] / "endpoint")]


@pytest.fixture(autouse=True)
def own_surroundings(monkeypatch: pytest.MonkeyPatch) -> None:
    """No key, no organisation and no proxy of the machine that the tests run on."""
    for name in ("OPENAI_API_KEY", "OPENAI_ORG_ID", "OPENAI_PROJECT_ID", "OPENAI_BASE_URL"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("NO_PROXY", "*")


@pytest.fixture
def serve():
    """`serve(script) -> ScriptedServer`, closed at the end."""
    from scripted import ScriptedServer

    servers = []

    def start(script):
        servers.append(ScriptedServer(script))
        return servers[-1]

    yield start
    for server in servers:
        server.close()


@pytest.fixture
def make_spec(tmp_path):
    """`make_spec(url, **fields) -> Spec`: three domains, 2 meta-topics of 2 sub-topics of 3 instructions each."""
    from ultrafuser.synthesis import Spec

    def make(url, **fields):
        counts = {"meta_topics": 2, "sub_topics": 2, "instructions": 3, "batch": 3}
        endpoint = {"base_url": url, "concurrency": 4, "retries": 3}
        given = {"name": "made", "domains": ["text", "code", "math"], "counts": counts, "endpoints": [endpoint]}
        return Spec(**(given | {"output": str(tmp_path / "out")} | fields))

    return make
