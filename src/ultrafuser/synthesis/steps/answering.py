"""The pool's way to conversations: a share made more complex, responses, further turns with a model as the user."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, TypeVar

from ultrafuser.endpoint import ChatRequest, Reply
from ultrafuser.synthesis.domain import Domain
from ultrafuser.synthesis.parsing import one_text
from ultrafuser.synthesis.records import Ask, Record, Reject
from ultrafuser.synthesis.spec import Spec
from ultrafuser.synthesis.steps.step import Pool, Step, dice, folded, list_request, unusable

__all__ = ["COMPLICATION", "FURTHER_TURNS", "RESPONSES", "conversations", "pool_of"]

T = TypeVar("T")

BLOCK = 20  # instructions out of which a share is drawn, so that it is exact and no list of all is needed
POOL = ("instructions", "expansion")


def pool_of(pool: Pool, domain: str) -> Iterator[Record]:
    """The instructions to be answered: a complicated one stands in the place of its original."""
    for step in POOL:
        for record in pool.records(step, domain):
            yield next(pool.children(record.id, "complication"), record)


def _share(items: Iterator[T], share: float, spec: Spec, *names: object) -> Iterator[T]:
    """A share of the items, drawn block by block."""
    block: list[T] = []
    number, owed = 0, 0.0
    for item in items:
        block.append(item)
        if len(block) == BLOCK:
            owed += share * BLOCK
            yield from _drawn(block, round(owed), spec, *names, number)
            owed -= round(owed)
            block, number = [], number + 1
    yield from _drawn(block, min(len(block), round(owed + share * len(block))), spec, *names, number)


def _drawn(block: list[T], count: int, spec: Spec, *names: object) -> Iterator[T]:
    chosen = dice(spec, *names).sample(range(len(block)), max(0, min(count, len(block))))
    for place in sorted(chosen):
        yield block[place]


def _complication_requests(spec: Spec, domain: Domain, pool: Pool, round_: int) -> Iterator[Ask]:
    share = spec.counts_of(domain.name).complicated
    originals = (record for step in POOL for record in pool.records(step, domain.name))
    for record in _share(originals, share, spec, "complication", domain.name):
        ways = dice(spec, "ways", record.id).sample(domain.ways, min(2, len(domain.ways)))
        prompt = domain.prompt("complication", instruction=record.data["text"], ways=ways)
        yield Ask((record.id,), list_request(spec, prompt), {"original": record.data["text"]})


def _complication_accept(reply: Reply, ask: Ask) -> list[dict[str, Any]] | Reject:
    text = one_text(reply.text)
    rejected = unusable(reply) or _cut_off(reply, ask) or (None if text else Reject("empty"))
    if rejected is None and folded(text) == folded(ask.note["original"]):
        return Reject("repeats what was shown")
    return [{"text": text}] if rejected is None else rejected


def _response_requests(spec: Spec, domain: Domain, pool: Pool, round_: int) -> Iterator[Ask]:
    for record in pool_of(pool, domain.name):
        system = domain.prompt("responses", instruction=record.data["text"])
        messages = [{"role": "system", "content": system}, {"role": "user", "content": record.data["text"]}]
        for sample in range(spec.responses.samples):
            yield Ask((record.id,), _response_request(spec, messages, sample), {"sample": sample})


def _response_request(spec: Spec, messages: list[dict[str, str]], sample: int = 0) -> ChatRequest:
    how = spec.responses
    return ChatRequest(tuple(messages), how.max_tokens, how.temperature, how.top_p, sample=sample)


def _response_accept(reply: Reply, ask: Ask) -> list[dict[str, Any]] | Reject:
    rejected = unusable(reply) or _cut_off(reply, ask)
    if rejected is not None:
        return rejected
    return [{"text": reply.text.strip(), "sample": ask.note["sample"]}]


def _cut_off(reply: Reply, ask: Ask) -> Reject | None:
    """Also where an endpoint gives no reason, and the reply is as long as it could be."""
    full = reply.finish == "unknown" and reply.completion_tokens >= ask.request.max_tokens
    return Reject("cut off by the length limit") if reply.finish == "length" or full else None


# ---- further turns ----


def conversations(pool: Pool, domain: str) -> Iterator[tuple[Record, Record, list[Record]]]:
    """Instruction, its first kept response, and the messages after it; in the order of the plan."""
    answered = ""
    for response in pool.records("responses", domain):
        instruction = pool.record(response.parents[0])
        if instruction is not None and instruction.id != answered:
            answered = instruction.id
            later = list(pool.children(response.id, "further_turns"))
            yield instruction, response, later[: len(later) // 2 * 2]


def _turn_requests(spec: Spec, domain: Domain, pool: Pool, round_: int) -> Iterator[Ask]:
    """Even rounds ask for the user's next message, odd ones for the answer to it."""
    of_user = round_ % 2 == 0
    for instruction, response in _continued(spec, domain, pool):
        later = list(pool.children(response.id, "further_turns"))
        if len(later) != round_:
            continue  # a message before this one could not be had
        messages = [{"role": "user", "content": instruction.data["text"]}]
        messages.append({"role": "assistant", "content": response.data["text"]})
        messages += [{"role": record.data["role"], "content": record.data["text"]} for record in later]
        about = (response.id, instruction.id, *(record.id for record in later))
        if of_user:
            way = dice(spec, "user", response.id, round_).choice(domain.user_ways)
            request = list_request(spec, domain.prompt("user_turn", conversation=messages, way=way))
        else:
            system = domain.prompt("responses", instruction=instruction.data["text"])
            request = _response_request(spec, [{"role": "system", "content": system}, *messages])
        yield Ask(about, request, {"role": "user" if of_user else "assistant"})


def _continued(spec: Spec, domain: Domain, pool: Pool) -> Iterator[tuple[Record, Record]]:
    pairs = ((instruction, response) for instruction, response, _ in conversations(pool, domain.name))
    yield from _share(pairs, spec.turns.share, spec, "turns", domain.name)


def _turn_accept(reply: Reply, ask: Ask) -> list[dict[str, Any]] | Reject:
    rejected = unusable(reply) or _cut_off(reply, ask)
    if rejected is not None:
        return rejected
    role = ask.note["role"]
    text = one_text(reply.text) if role == "user" else reply.text.strip()
    return [{"role": role, "text": text}] if text else Reject("empty")


def _complication_counts(spec: Spec, domain: Domain, made: Mapping[str, int]) -> tuple[int, int]:
    number = round(sum(made[step] for step in POOL) * spec.counts_of(domain.name).complicated)
    return number, number


def _response_counts(spec: Spec, domain: Domain, made: Mapping[str, int]) -> tuple[int, int]:
    number = sum(made[step] for step in POOL) * spec.responses.samples
    return number, number


def _turn_counts(spec: Spec, domain: Domain, made: Mapping[str, int]) -> tuple[int, int]:
    number = round(made["responses"] / spec.responses.samples * spec.turns.share) * 2 * spec.turns.extra
    return number, number


COMPLICATION = Step(
    name="complication",
    summary="a share of the instructions rewritten to be more complex",
    reads=POOL,
    makes=("text",),
    rounds=lambda spec, domain: 1,
    requests=_complication_requests,
    accept=_complication_accept,
    counts=_complication_counts,
)
RESPONSES = Step(
    name="responses",
    summary="responses to all instructions",
    reads=(*POOL, "complication"),
    makes=("text", "sample"),
    rounds=lambda spec, domain: 1,
    requests=_response_requests,
    accept=_response_accept,
    counts=_response_counts,
)
FURTHER_TURNS = Step(
    name="further_turns",
    summary="further turns, a model playing the user",
    reads=(*POOL, "complication", "responses"),
    makes=("role", "text"),
    rounds=lambda spec, domain: 2 * spec.turns.extra,
    requests=_turn_requests,
    accept=_turn_accept,
    counts=_turn_counts,
)
