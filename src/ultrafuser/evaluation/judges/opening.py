"""The judge that a command line names."""

from __future__ import annotations

import os
from pathlib import Path

from ultrafuser.evaluation.judges.judge import Judge

__all__ = ["default_cache", "open_judge"]

KEY_VARIABLE = "ULTRAFUSER_JUDGE_KEY"  # where the judge wants another key than the model under test


def default_cache() -> Path:
    """Where judges keep their replies unless told otherwise: ultrafuser/replies.sqlite in the user's cache folder."""
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(base) / "ultrafuser" / "replies.sqlite"


def open_judge(
    *,
    url: str | None = None,
    model: str | None = None,
    reward_model: str | None = None,
    cache: str | Path | None = None,
    concurrency: int = 8,
    device: str | None = None,
) -> Judge | None:
    """The judge of `--judge URL --judge-model NAME` or `--reward-model FOLDER`; None when neither is given.

    `cache` None is `default_cache()`. The key is that of the environment variable ULTRAFUSER_JUDGE_KEY, else of
    OPENAI_API_KEY. An endpoint is asked for one word (once, then that is in the cache), so that a
    wrong address, key or model is told before long work. Raises ValueError for a mixture of both.
    """
    if url is not None and reward_model is not None:
        raise ValueError(f"--judge {url} and --reward-model {reward_model}: a run has one judge; leave one out")
    if url is None and model is not None:
        raise ValueError(f"--judge-model: {model!r} needs --judge URL, the endpoint that serves it")
    if reward_model is not None:
        from ultrafuser.evaluation.judges.reward import RewardJudge

        return RewardJudge(reward_model, device=device)
    if url is None:
        return None
    from ultrafuser.endpoint import ChatClient, ChatRequest
    from ultrafuser.evaluation.judges.llm import LLMJudge

    key = os.environ.get(KEY_VARIABLE)
    client = ChatClient(url, model, key, cache=cache or default_cache(), concurrency=concurrency)
    client.ask(ChatRequest(({"role": "user", "content": "Reply with the word: ready"},), max_tokens=16))
    return LLMJudge(client)
