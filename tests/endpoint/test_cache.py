"""The cache of replies: what decides a hit, several users, sudden death, broken files."""

import os
import signal
import sqlite3
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from ultrafuser.endpoint import ChatRequest, EndpointError, Reply, TokenLogprob
from ultrafuser.endpoint.cache import ReplyCache, request_key


def request(text: str = "hello", **options) -> ChatRequest:
    return ChatRequest(({"role": "user", "content": text},), **options)


def test_the_same_request_is_asked_once(serve, open_client, tmp_path):
    server = serve(lambda body, number: f"reply {number}")
    client = open_client(server, cache=tmp_path / "cache.sqlite")
    first, second = client.ask(request()), client.ask(request())
    assert (first.text, first.cached) == ("reply 0", False)
    assert (second.text, second.cached) == ("reply 0", True)
    assert (client.usage.calls, client.usage.cache_hits, client.usage.completion_tokens) == (1, 1, 3)


def test_another_process_and_another_port_hit_too_even_without_a_server(serve, open_client, tmp_path):
    server = serve(lambda body, number: "kept")
    open_client(server, cache=tmp_path / "cache.sqlite", model="m").ask(request())
    server.close()
    again = open_client("http://127.0.0.1:9/v1", cache=tmp_path / "cache.sqlite", model="m")
    assert again.ask(request()).text == "kept"
    with pytest.raises(EndpointError, match="cannot be reached"):
        again.ask(request("other"))


@pytest.mark.parametrize(
    "other",
    [
        request("other"),
        request(max_tokens=5),
        request(temperature=0.5),
        request(top_p=0.5),
        request(seed=1),
        request(stop=("x",)),
        request(top_logprobs=2),
        request(sample=1),
    ],
)
def test_everything_that_decides_a_reply_is_in_the_key(other):
    assert request_key(request().body("m"), 0) != request_key(other.body("m"), other.sample)


def test_the_model_is_in_the_key():
    assert request_key(request().body("m"), 0) != request_key(request().body("n"), 0)


def test_a_reply_comes_back_whole(tmp_path):
    reply = Reply("ä\ud800", "length", "no", 3, 4, ((TokenLogprob("Yes", -0.5), TokenLogprob("No", -1.0)),))
    cache = ReplyCache(tmp_path / "deep" / "cache.sqlite")
    cache.put("k", reply)
    found = cache.get("k")
    assert found is not None
    assert found.cached
    assert (found.text, found.finish, found.refusal, found.top_logprobs) == (
        "ä\ud800",
        "length",
        "no",
        reply.top_logprobs,
    )
    assert cache.get("other") is None


def test_failures_are_not_kept(serve, open_client, tmp_path):
    from scripted import failure

    server = serve(lambda body, number: "fine" if number else failure(400, "bad"))
    client = open_client(server, cache=tmp_path / "cache.sqlite")
    with pytest.raises(EndpointError):
        client.ask(request())
    assert client.ask(request()).text == "fine"


def test_what_is_in_the_cache_survives_kill_9(serve, tmp_path):
    """A process is killed while its last request hangs; the replies before it cost nothing the second time."""
    hang = threading.Event()
    server = serve(lambda body, number: f"reply {number}" if number < 3 or hang.is_set() else hang.wait(60) and "late")
    program = (
        "import sys\n"
        "from ultrafuser.endpoint import ChatClient, ChatRequest\n"
        "client = ChatClient(sys.argv[1], cache=sys.argv[2], concurrency=1)\n"
        "texts = [ChatRequest(({'role': 'user', 'content': str(n)},)) for n in range(4)]\n"
        "for number, reply in client.map(texts):\n"
        "    print(number, flush=True)\n"
        "print('calls', client.usage.calls, 'hits', client.usage.cache_hits, flush=True)\n"
    )
    command = [sys.executable, "-c", program, server.url, str(tmp_path / "cache.sqlite")]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    assert [process.stdout.readline().strip() for _ in range(3)] == ["0", "1", "2"]
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    process.stdout.close()
    hang.set()
    again = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True)
    assert "calls 1 hits 3" in again.stdout


def test_threads_and_processes_write_side_by_side(tmp_path):
    path = tmp_path / "cache.sqlite"
    program = (
        "import sys\n"
        "from ultrafuser.endpoint.cache import ReplyCache\n"
        "from ultrafuser.endpoint import Reply\n"
        "cache = ReplyCache(sys.argv[1])\n"
        "for n in range(100): cache.put(sys.argv[2] + str(n), Reply(str(n)))\n"
    )
    others = [subprocess.Popen([sys.executable, "-c", program, str(path), name]) for name in "ab"]
    cache = ReplyCache(path)
    threads = [
        threading.Thread(target=lambda n=n: [cache.put(f"t{n}-{k}", Reply(str(k))) for k in range(50)])
        for n in range(4)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [other.wait(timeout=120) for other in others] == [0, 0]
    assert len(cache) == 400


@pytest.mark.parametrize("content", [b"this is no database, not at all, not even a small one" * 20, None])
def test_a_file_that_is_no_cache_is_named(tmp_path, content):
    path = tmp_path / "cache.sqlite"
    if content is None:
        path.mkdir()
    else:
        path.write_bytes(content)
    with pytest.raises(ValueError, match=r"cache: .*cache\.sqlite.*name another file"):
        ReplyCache(path)


def test_another_layout_is_refused(tmp_path):
    path = tmp_path / "cache.sqlite"
    with sqlite3.connect(path) as connection:
        connection.execute("PRAGMA user_version=99")
    connection.close()
    with pytest.raises(ValueError, match="layout is number 99"):
        ReplyCache(path)


def test_an_unreadable_entry_counts_as_absent(tmp_path):
    cache = ReplyCache(tmp_path / "cache.sqlite")
    cache.put("k", Reply("text"))
    with sqlite3.connect(tmp_path / "cache.sqlite") as connection:
        connection.execute("UPDATE replies SET reply = '{\"text\": 1'")
    connection.close()
    assert cache.get("k") is None


def test_the_cache_lies_where_it_is_told(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    ReplyCache("~/kept.sqlite").close()
    assert (Path(tmp_path) / "kept.sqlite").is_file()
