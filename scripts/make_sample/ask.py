"""Puts prompts to an OpenAI-compatible server, several at a time, and journals every answer: killed runs go on."""

from __future__ import annotations

import json
import sys
import threading
import time
import urllib.error
import urllib.request
import zlib
from collections import Counter, deque
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from .checks import problem_with, tidy
from .prompt_files import MODEL_CATEGORIES, Prompt
from .styles import MAX_TOKENS, TEMPERATURE, opening


class Journal:
    """Answers on disk, one JSON a line, keyed by prompt, attempt and turn; a torn last line is dropped."""

    def __init__(self, path: Path) -> None:
        self.path, self._lock = path, threading.Lock()
        self.answers: dict[str, dict[str, object]] = {}
        path.parent.mkdir(parents=True, exist_ok=True)
        text = path.read_text(encoding="utf-8") if path.exists() else ""
        for line in text.split("\n")[:-1]:
            row = json.loads(line)
            self.answers[row["key"]] = row
        if text and not text.endswith("\n"):
            path.write_text(text[: text.rfind("\n") + 1], encoding="utf-8")

    def add(self, row: dict[str, object]) -> None:
        """Keeps one answer, on disk before anything else happens."""
        with self._lock:
            self.answers[str(row["key"])] = row
            with self.path.open("a", encoding="utf-8") as file:
                file.write(json.dumps(row) + "\n")


@dataclass
class Client:
    """The addresses of one or more like servers, and the seed from which every request derives its own."""

    urls: tuple[str, ...]
    seed: int = 20261124
    timeout: float = 600.0
    tries: int = 3

    def complete(self, url: str, category: str, messages: list[dict[str, str]], key: str) -> dict[str, object]:
        """One answer as {text, finish, tokens}. OSError after `tries` failures to reach the server."""
        body = {
            "messages": [*opening(category), *messages],
            "max_tokens": MAX_TOKENS[category],
            "temperature": TEMPERATURE[category],
            "top_p": 0.9,
            "seed": (self.seed + zlib.crc32(key.encode())) % 2**31,
        }
        request = urllib.request.Request(
            url.rstrip("/") + "/chat/completions", json.dumps(body).encode(), {"Content-Type": "application/json"}
        )
        for failures in range(self.tries):
            try:
                with urllib.request.urlopen(request, timeout=self.timeout) as reply:
                    found = json.load(reply)
                break
            except (urllib.error.URLError, TimeoutError, ConnectionError):
                if failures + 1 == self.tries:
                    raise
                time.sleep(2**failures)
        choice = found["choices"][0]
        tokens = found.get("usage", {}).get("completion_tokens", 0)
        return {"text": choice["message"]["content"], "finish": choice["finish_reason"], "tokens": tokens}


def conversation(
    prompt: Prompt, attempt: int, journal: Journal, ask: Callable[..., dict[str, object]] | None
) -> tuple[list[dict[str, str]], str] | None:
    """The conversation of one attempt and what is wrong with it; None if it is not journalled and `ask` is None."""
    messages: list[dict[str, str]] = []
    for turn, content in enumerate(prompt.turns):
        messages.append({"role": "user", "content": content})
        key = f"{prompt.key}#{attempt}.{turn}"
        row = journal.answers.get(key)
        if row is None:
            if ask is None:
                return None
            row = {"key": key, **ask(prompt.category, messages, key)}
            journal.add(row)
        answer = tidy(str(row["text"]))
        messages.append({"role": "assistant", "content": answer})
        problem = problem_with(prompt, answer, str(row["finish"]))
        if problem:
            return messages, problem
    return messages, ""


def first_good(
    prompt: Prompt,
    attempts: int,
    journal: Journal,
    rejected: dict[str, str],
    ask: Callable[..., dict[str, object]] | None,
) -> tuple[list[dict[str, str]] | None, list[str]]:
    """The first attempt that passes the checks and was not rejected by hand, and why earlier ones did not."""
    reasons: list[str] = []
    for attempt in range(attempts):
        got = conversation(prompt, attempt, journal, ask)
        if got is None:
            break
        reason = got[1] or rejected.get(f"{prompt.key}#{attempt}", "")
        if not reason:
            return got[0], reasons
        reasons.append(reason)
    return None, reasons


def _homes(waiting: dict[str, deque[Prompt]], slots: int) -> list[str]:
    """A category for each of `slots` workers, in proportion to the prompts that wait."""
    every = [category for category, prompts in waiting.items() for _ in prompts]
    return [every[slot * len(every) // slots] for slot in range(slots)] if every else []


def ask_all(
    prompts: list[Prompt],
    client: Client,
    journal: Journal,
    rejected: dict[str, str],
    attempts: int = 3,
    slots: int = 8,
    enough: dict[str, int] | None = None,
) -> dict[str, int]:
    """Asks every prompt until one answer is good or the attempts are spent; prints progress. Returns the counts.

    `slots` requests are in flight at each server. A worker stays with one category while it lasts, so that a server
    that caches prompts by slot finds the same opening again. `enough` names for a split how many good answers of a
    category suffice; further prompts are then left alone.
    """
    kept: Counter[tuple[str, str]] = Counter()
    counts = {"good": 0, "failed": 0, "left out": 0, "tokens": 0}
    before, start, lock = len(journal.answers), time.monotonic(), threading.Lock()
    waiting = {category: deque(p for p in prompts if p.category == category) for category in MODEL_CATEGORIES}

    def take(home: str) -> Prompt | None:
        with lock:
            queue = waiting[home] or max(waiting.values(), key=len)
            return queue.popleft() if queue else None

    def settle(prompt: Prompt, url: str) -> None:
        if kept[prompt.category, prompt.split] >= (enough or {}).get(prompt.split, len(prompts)):
            counts["left out"] += 1
            return

        def ask(category: str, messages: list[dict[str, str]], key: str) -> dict[str, object]:
            reply = client.complete(url, category, messages, key)
            with lock:
                counts["tokens"] += int(str(reply["tokens"]))
            return reply

        messages, reasons = first_good(prompt, attempts, journal, rejected, ask)
        with lock:
            kept[prompt.category, prompt.split] += bool(messages)
            counts["good" if messages else "failed"] += 1
            _report(counts, len(prompts), time.monotonic() - start, f"{prompt.key} {'; '.join(reasons)}")

    def work(home: str, url: str) -> None:
        while prompt := take(home):
            settle(prompt, url)

    homes = _homes(waiting, slots * len(client.urls))
    with ThreadPoolExecutor(max(1, len(homes))) as pool:
        runs = [pool.submit(work, home, client.urls[n % len(client.urls)]) for n, home in enumerate(homes)]
    for run in runs:
        run.result()
    return counts | {"asked": len(journal.answers) - before}


def _report(counts: dict[str, int], total: int, seconds: float, note: str) -> None:
    """One line of progress."""
    done = counts["good"] + counts["failed"] + counts["left out"]
    rate = counts["tokens"] / max(seconds, 1e-9)
    left = seconds / max(done, 1) * (total - done) / 60
    print(
        f"{done}/{total} good {counts['good']} {rate:.1f} tok/s {left:.1f} min left {note}", file=sys.stderr, flush=True
    )
