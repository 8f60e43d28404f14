"""The client: asks an OpenAI-compatible endpoint, many requests at a time, each answer kept on disk."""

from __future__ import annotations

import logging
import os
import re
import threading
from collections.abc import Iterable, Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from queue import SimpleQueue
from typing import Any

from ultrafuser.endpoint.address import normal_address, public_address
from ultrafuser.endpoint.attempts import Attempts, BadReplyError, RefusedError
from ultrafuser.endpoint.cache import ReplyCache, request_key
from ultrafuser.endpoint.dialect import Dialect
from ultrafuser.endpoint.errors import EndpointError, RejectedError
from ultrafuser.endpoint.messages import ChatRequest, Reply, TokenLogprob, Usage
from ultrafuser.endpoint.pace import Pace
from ultrafuser.lookup import did_you_mean

__all__ = ["ChatClient"]

logger = logging.getLogger(__name__)

KEY_VARIABLE = "OPENAI_API_KEY"
_NO_KEY = "none"  # servers on one's own machine want none, the library wants some
_NO_SUCH_MODEL = re.compile(r"model.{0,200}(not found|not exist|unknown|no such)|model_not_found", re.I | re.S)


class ChatClient:
    """An endpoint's chat completions (openai package, https://platform.openai.com/docs/api-reference/chat).

    `model` None means the only one that the endpoint lists. `api_key` None means the environment variable
    OPENAI_API_KEY; it is sent, and neither written nor shown. `cache` is a SQLite file; `retries` counts attempts after
    the first, `backoff` is the first wait in seconds, doubled each time; `timeout` is in seconds per attempt.
    `requests_per_minute` limits attempts; a pause that the endpoint asks for holds for all calls.
    Safe to use from several threads. Raises ValueError for what cannot work before anything is sent.
    """

    def __init__(
        self,
        base_url: str,
        model: str | None = None,
        api_key: str | None = None,
        *,
        cache: str | Path | None = None,
        concurrency: int = 8,
        retries: int = 6,
        timeout: float = 600.0,
        backoff: float = 0.5,
        requests_per_minute: float | None = None,
    ) -> None:
        if concurrency < 1 or retries < 0 or timeout <= 0:
            raise ValueError(
                f"concurrency {concurrency}, retries {retries}, timeout {timeout}: there must be at least 1 request at "
                "a time, 0 retries and more than 0 seconds"
            )
        address = normal_address(base_url)
        self.address = public_address(address)
        self.concurrency = concurrency
        key = api_key or os.environ.get(KEY_VARIABLE) or _NO_KEY
        self._api = _open_api(address, key, timeout)
        self._cache = ReplyCache(cache) if cache is not None else None
        secret = "" if key == _NO_KEY else key
        pace = Pace(requests_per_minute)
        self._attempts = Attempts(
            self.address, retries=retries, backoff=backoff, timeout=timeout, secret=secret, pace=pace
        )
        self._dialect = Dialect()
        self._lock = threading.Lock()
        self._model = model
        self._model_lock = threading.Lock()
        self._used = Usage()

    @property
    def model(self) -> str:
        """The model's name, asked of the endpoint if it was not given.

        Raises EndpointError when the endpoint lists none or several.
        """
        with self._model_lock:
            if self._model is None:
                there = self.models()
                if len(there) != 1:
                    found = f"has {len(there)} models ({', '.join(there)})" if there else "lists no models"
                    raise EndpointError(f"model: {self.address} {found}; name the one to use")
                self._model = there[0]
            return self._model

    @property
    def usage(self) -> Usage:
        """Calls, retries, cache hits and tokens so far."""
        with self._lock:
            used = self._used
        return Usage(used.calls, self._attempts.count, used.cache_hits, used.prompt_tokens, used.completion_tokens)

    def describe(self) -> dict[str, str]:
        """Address and model, for records; never the key."""
        return {"address": self.address, "model": self.model}

    def models(self) -> list[str]:
        """Names of the models that the endpoint lists."""
        try:
            return self._attempts.run(lambda: _model_names(self._api.models.list()))
        except RefusedError as refused:
            raise refused.final(f"{self.address}/models") from refused

    def ask(self, request: ChatRequest, stop: threading.Event | None = None) -> Reply:
        """The reply to one request. Raises RejectedError or EndpointError; `stop` ends waits between attempts."""
        return self._ask(request, stop or threading.Event())

    def map(self, requests: Iterable[ChatRequest]) -> Iterator[tuple[int, Reply | RejectedError]]:
        """Replies in the order of their completion, each with its request's number, counted from 0.

        A request that the endpoint will not answer gives its RejectedError as a value; an endpoint that cannot be
        used raises EndpointError. Requests are drawn as workers become free. Stopping early lets calls under way end
        on their own, into the cache.
        """
        source, gate, stop = enumerate(requests), threading.Lock(), threading.Event()
        results: SimpleQueue[tuple[int, Any] | None] = SimpleQueue()

        def work() -> None:
            try:
                while not stop.is_set():
                    with gate:
                        number, request = next(source, (-1, None))
                    if request is None:
                        break
                    results.put((number, self._outcome(request, stop)))
            except BaseException as error:
                results.put((-1, error))
            results.put(None)

        for _ in range(self.concurrency):
            threading.Thread(target=work, daemon=True).start()
        yield from _drain(results, self.concurrency, stop)

    def close(self) -> None:
        """Close connections and cache."""
        self._api.close()
        if self._cache is not None:
            self._cache.close()

    def __enter__(self) -> ChatClient:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def _outcome(self, request: ChatRequest, stop: threading.Event) -> Reply | RejectedError:
        try:
            return self._ask(request, stop)
        except RejectedError as rejected:
            return rejected

    def _ask(self, request: ChatRequest, stop: threading.Event) -> Reply:
        body = request.body(self.model)
        key = request_key(body, request.sample)
        kept = self._cache.get(key) if self._cache is not None else None
        if kept is not None:
            self._count(cache_hits=1)
            return kept
        reply = self._call(body, stop)
        self._count(calls=1, prompt_tokens=reply.prompt_tokens, completion_tokens=reply.completion_tokens)
        if self._cache is not None:
            self._cache.put(key, reply)
        return reply

    def _call(self, body: dict[str, Any], stop: threading.Event) -> Reply:
        """One reply from the endpoint, with parameters renamed or left out as its model wants."""
        while True:
            sent = self._dialect.apply(body)
            try:
                reply = self._attempts.run(partial(self._send, sent), stop)
            except RefusedError as refused:
                if self._dialect.learn(refused.status, refused.body, refused.said):
                    logger.warning("%s: %s", self.address, refused.said)
                if self._dialect.apply(body) == sent:
                    raise self._final(refused) from refused
            else:
                left_out = {*body} - {*sent} - {*self._dialect.renamed}
                return replace(reply, left_out=tuple(sorted(left_out)))

    def _send(self, body: dict[str, Any]) -> Reply:
        """One call. The library's typed `create` gives the same, at twice the processor time."""
        return _reply(self._api.post("/chat/completions", body=body, cast_to=object))

    def _final(self, refused: RefusedError) -> EndpointError:
        missing = refused.status == 404 or _NO_SUCH_MODEL.search(f"{refused.body} {refused.said}")
        try:
            there = self.models() if missing else []
        except EndpointError:
            there = []
        if not there or self.model in there:
            return refused.final(f"{self.address}/chat/completions")
        return EndpointError(
            f"model: {self.address} has no model {self.model!r}; it has {', '.join(sorted(there))}"
            f"{did_you_mean(self.model, there)}"
        )

    def _count(
        self, *, calls: int = 0, cache_hits: int = 0, prompt_tokens: int = 0, completion_tokens: int = 0
    ) -> None:
        with self._lock:
            used = self._used
            self._used = Usage(
                calls=used.calls + calls,
                cache_hits=used.cache_hits + cache_hits,
                prompt_tokens=used.prompt_tokens + prompt_tokens,
                completion_tokens=used.completion_tokens + completion_tokens,
            )


def _open_api(address: str, key: str, timeout: float) -> Any:
    try:
        import openai
    except ModuleNotFoundError as error:
        raise ValueError("endpoints need the package openai: pip install 'ultrafuser[eval]'") from error
    limits = openai.Timeout(timeout, connect=min(timeout, 10.0))
    return openai.OpenAI(base_url=address, api_key=key, max_retries=0, timeout=limits)


def _drain(results: SimpleQueue, workers: int, stop: threading.Event) -> Iterator[tuple[int, Any]]:
    """What the workers put into the queue until each of them has said that it is done; an error is raised."""
    try:
        while workers:
            result = results.get()
            if result is None:
                workers -= 1
            elif isinstance(result[1], BaseException) and not isinstance(result[1], RejectedError):
                raise result[1]
            else:
                yield result
    finally:
        stop.set()


def _model_names(page: Any) -> list[str]:
    try:
        return [str(model.id) for model in page.data]
    except (AttributeError, TypeError) as error:
        raise BadReplyError("its list of models is not one") from error


def _reply(completion: Any) -> Reply:
    """A completion as it came, as a Reply; raises BadReplyError where there is none in it."""
    try:
        choice = completion["choices"][0]
        message = choice["message"]
        text = message.get("content") or ""
        top_logprobs = _top_logprobs(choice)
        used = completion.get("usage") or {}
    except (AttributeError, TypeError, IndexError, KeyError) as error:
        said = completion.get("error") if isinstance(completion, dict) else None
        raise BadReplyError(f"an answer without a message: {said or str(completion)[:120]}") from error
    if not isinstance(text, str):
        raise BadReplyError(f"a message whose content is {type(text).__name__}, not text")
    return Reply(
        text=text,
        finish=choice.get("finish_reason") or "unknown",
        refusal=message.get("refusal") or None,
        prompt_tokens=used.get("prompt_tokens") or 0,
        completion_tokens=used.get("completion_tokens") or 0,
        top_logprobs=top_logprobs,
    )


def _top_logprobs(choice: Any) -> tuple[tuple[TokenLogprob, ...], ...] | None:
    positions = (choice.get("logprobs") or {}).get("content")
    if not positions:
        return None
    return tuple(
        tuple(TokenLogprob(one["token"], one["logprob"]) for one in position.get("top_logprobs") or ())
        for position in positions
    )
