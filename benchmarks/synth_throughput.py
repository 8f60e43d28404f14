"""How fast data synthesis asks, and what a long run needs in memory.

    python benchmarks/synth_throughput.py                      both parts
    python benchmarks/synth_throughput.py --part rate          requests per second against a server that takes 50 ms
    python benchmarks/synth_throughput.py --part journal       100,000 conversations written, dropped midway, resumed

Rate: a server in a process of its own answers every request after 50 ms; the most that c requests at a time can reach
is c / 0.05 s. The whole engine is measured: client, reading of replies, journal on disk. Beside it stands what threads
that only write and read sockets reach at the same time: on a busy machine that is the measure. Journal: no server; each
half runs in a fresh process, whose peak memory is told. The first process ends without closing anything.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import resource
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from ultrafuser.endpoint import Reply
from ultrafuser.synthesis import Journal, Spec, open_domains
from ultrafuser.synthesis.engine import Engine
from ultrafuser.synthesis.export import export_jsonl
from ultrafuser.synthesis.records import Ask
from ultrafuser.synthesis.rows import Settled, Spent
from ultrafuser.synthesis.steps import STEPS
from ultrafuser.synthesis.steps.step import list_request

DELAY = 0.05  # seconds
ANSWER = "A made-up answer of some length, which stands for what a model would say. " * 16  # about 1.2 kB
PER_REPLY = 10


def main() -> None:
    """Measure and show."""
    options = _options()
    if options.child:
        {"write": write, "resume": resume, "serve": serve}[options.child](options)
        return
    result: dict[str, Any] = {"load": os.getloadavg()[0], "cores": os.cpu_count()}
    if options.part in ("rate", "both"):
        result["rate"] = rates(options)
    if options.part in ("journal", "both"):
        result["journal"] = journal(options)
    if options.json:
        options.json.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")


def rates(options: argparse.Namespace) -> list[dict[str, float]]:
    """Requests per second at several numbers of requests at a time."""
    server = subprocess.Popen(
        [sys.executable, __file__, "--child", "serve"], stdout=subprocess.PIPE, text=True, env=os.environ
    )
    assert server.stdout is not None
    url = f"http://127.0.0.1:{server.stdout.readline().strip()}/v1"
    rows = []
    print(f"{'at a time':>9} {'possible/s':>11} {'reached/s':>10} {'share':>6} {'sockets/s':>10} {'CPU ms each':>12}")
    try:
        for concurrency in options.concurrency:
            requests = max(100, round(options.seconds * concurrency / DELAY))
            plain = [sockets(url, concurrency, requests // 2)]
            row = rate(url, concurrency, requests)
            plain.append(sockets(url, concurrency, requests // 2))
            rows.append(row | {"sockets": sum(plain) / 2})
            shown = (
                f"{row['possible']:>11.0f} {row['reached']:>10.1f} {row['share']:>6.1%} {rows[-1]['sockets']:>10.1f}"
            )
            print(f"{concurrency:>9} {shown} {row['cpu_ms']:>12.2f}", flush=True)
    finally:
        server.terminate()
        server.wait()
    return rows


def rate(url: str, concurrency: int, requests: int) -> dict[str, float]:
    """One run of the engine over so many requests, the first of which warm it up."""
    with tempfile.TemporaryDirectory() as folder:
        spec = made_spec(folder, url, concurrency)
        with Journal(folder) as opened:
            times: list[float] = []
            engine = Engine(spec, opened, on_answer=lambda planned, settled: times.append(time.monotonic()))
            opened.plan("responses", 0, asks(spec, requests), spec.seed, "")
            before = time.process_time()
            assert engine.run(STEPS["responses"]) is None
            cpu = time.process_time() - before
            engine.close()
    warm = 2 * concurrency
    reached = (len(times) - 1 - warm) / (times[-1] - times[warm])
    possible = concurrency / DELAY
    return {
        "concurrency": concurrency, "possible": possible, "reached": reached, "share": reached / possible,
        "cpu_ms": 1000 * cpu / requests,
    }  # fmt: skip


def sockets(url: str, concurrency: int, requests: int) -> float:
    """Requests per second of threads that do nothing but write a request and read the answer."""
    port = int(url.rpartition(":")[2].partition("/")[0])
    asked = b"POST /v1/chat/completions HTTP/1.1\r\nContent-Length: 300\r\n\r\n" + b" " * 300
    times: list[float] = []

    def work() -> None:
        with socket.create_connection(("127.0.0.1", port)) as opened:
            for _ in range(requests // concurrency):
                opened.sendall(asked)
                got = opened.recv(65536)
                length = got.partition(b"\r\n\r\n")[0].rpartition(b" ")[2]
                left = int(length) - len(got.partition(b"\r\n\r\n")[2])
                while left:
                    left -= len(opened.recv(65536))
                times.append(time.monotonic())

    threads = [threading.Thread(target=work) for _ in range(concurrency)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    times.sort()
    return (len(times) - 1 - concurrency) / (times[-1] - times[concurrency])


def asks(spec: Spec, count: int) -> Iterator[tuple[str, Ask]]:
    """Requests for responses to made-up instructions."""
    for number in range(count):
        yield "text", Ask((f"i{number}.0",), list_request(spec, f"Say something about number {number}."), {"sample": 0})


def journal(options: argparse.Namespace) -> dict[str, Any]:
    """Both halves of a long run, each in a process of its own."""
    found = {}
    with tempfile.TemporaryDirectory() as folder:
        for part in ("write", "resume"):
            command = [sys.executable, __file__, "--child", part, "--folder", folder, "--records", str(options.records)]
            done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
            found[part] = json.loads(done.stdout)
            print(part, ", ".join(f"{name} {value:,.1f}" for name, value in found[part].items()))
        found["journal_mb"] = Path(folder, "journal.sqlite").stat().st_size / 1e6
    return found


def write(options: argparse.Namespace) -> None:
    """Instructions, the plan of their responses, and the first half of these; then the process is gone."""
    spec = made_spec(options.folder)
    opened, start = Journal(options.folder), memory()
    began = time.monotonic()
    replies = options.records // PER_REPLY
    opened.plan("instructions", 0, asks(spec, replies), spec.seed, "")
    settle(
        opened, "instructions", replies, lambda n: [{"text": f"Instruction {n}, {k}, " * 8} for k in range(PER_REPLY)]
    )
    instructions = time.monotonic()
    domain = open_domains(spec)[0]
    planned = ((domain.name, ask) for ask in STEPS["responses"].requests(spec, domain, opened, 0))
    opened.plan("responses", 0, planned, spec.seed, "")
    planned_at = time.monotonic()
    settle(opened, "responses", options.records // 2, lambda n: [{"text": f"{n}: {ANSWER}", "sample": 0}])
    told = {
        "instructions_s": instructions - began, "plan_s": planned_at - instructions,
        "half_the_responses_s": time.monotonic() - planned_at, "start_mb": start, "peak_mb": memory(),
    }  # fmt: skip
    print(json.dumps(told), flush=True)
    os._exit(0)


def resume(options: argparse.Namespace) -> None:
    """The other half, and the export of all."""
    spec, start = made_spec(options.folder), memory()
    began = time.monotonic()
    opened = Journal(options.folder)
    left = settle(opened, "responses", options.records, lambda n: [{"text": f"{n}: {ANSWER}", "sample": 0}])
    settled = time.monotonic()
    counts = export_jsonl(opened, open_domains(spec), Path(options.folder) / "data.jsonl")
    assert sum(counts.values()) == options.records
    told = {
        "left": left, "responses_s": settled - began, "export_s": time.monotonic() - settled, "start_mb": start,
        "peak_mb": memory(),
    }  # fmt: skip
    print(json.dumps(told))


def settle(opened: Journal, step: str, limit: int, made: Any) -> int:
    """Settles what waits in a step, as the engine does, at most `limit` requests; how many there were."""
    after, number = -1, 0
    while number < limit and (rows := opened.waiting(step, after, min(256, limit - number))):
        after = rows[-1][0]
        for _, planned in rows:
            settled = Settled(made=made(number), spent=Spent(1, 200, 300, 0.001), endpoint="x", model="m")
            opened.settle(planned, Reply(ANSWER), settled)
            number += 1
    return number


def memory() -> float:
    """Peak of this process so far, in MB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1000


def made_spec(folder: str, url: str = "http://localhost:1/v1", concurrency: int = 8) -> Spec:
    """A spec of one domain."""
    endpoint = {"base_url": url, "concurrency": concurrency, "model": "m"}
    counts = {"meta_topics": 1, "sub_topics": 1, "complicated": 0.0, "expansion": 0.0}
    return Spec(name="throughput", domains=["text"], counts=counts, endpoints=[endpoint], output=folder)


def serve(options: argparse.Namespace) -> None:
    """A server that answers every request with the same completion after DELAY; prints its port."""
    message = {"role": "assistant", "content": ANSWER}
    choice = {"index": 0, "finish_reason": "stop", "message": message}
    usage = {"prompt_tokens": 7, "completion_tokens": 300, "total_tokens": 307}
    whole = {"id": "x", "object": "chat.completion", "created": 0, "model": "m", "choices": [choice], "usage": usage}
    body = json.dumps(whole).encode()
    head = f"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n".encode()

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while request := await reader.readuntil(b"\r\n\r\n"):
                due = asyncio.get_running_loop().time() + DELAY
                length = next(line for line in request.lower().split(b"\r\n") if line.startswith(b"content-length"))
                await reader.readexactly(int(length.split(b":")[1]))
                await asyncio.sleep(due - asyncio.get_running_loop().time())
                writer.write(head + body)
                await writer.drain()
        except (asyncio.IncompleteReadError, ConnectionError):
            writer.close()

    async def run() -> None:
        server = await asyncio.start_server(answer, "127.0.0.1", 0)
        print(server.sockets[0].getsockname()[1], flush=True)
        await server.serve_forever()

    asyncio.run(run())


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--part", choices=("rate", "journal", "both"), default="both")
    parser.add_argument("--concurrency", type=int, nargs="+", default=[4, 8, 16, 32, 64])
    parser.add_argument("--seconds", type=float, default=5.0, help="length of each measurement at the possible rate")
    parser.add_argument("--records", type=int, default=100_000)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--child", choices=("write", "resume", "serve"), help=argparse.SUPPRESS)
    parser.add_argument("--folder", help=argparse.SUPPRESS)
    return parser.parse_args()


if __name__ == "__main__":
    main()
