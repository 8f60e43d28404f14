"""The client against a scripted server: retries, errors, cache, many requests at a time."""

import email.utils
import json
import threading
import time

import pytest
from scripted import Answering, completion, failure

from ultrafuser.endpoint import ChatClient, ChatRequest, EndpointError, RejectedError
from ultrafuser.endpoint.attempts import Attempts, BadReplyError


def request(text: str = "hello", **options) -> ChatRequest:
    return ChatRequest(({"role": "user", "content": text},), **options)


def said(body: dict) -> str:
    return body["messages"][-1]["content"]


# ---- a reply, and what it says about itself ----


def test_a_reply_has_text_reason_and_usage(serve, open_client):
    server = serve(lambda body, number: completion("hi", tokens=5))
    client = open_client(server)
    reply = client.ask(request(max_tokens=9, temperature=0.5, top_p=0.9, seed=3, stop=("X",)))
    assert (reply.text, reply.finish, reply.finished, reply.completion_tokens) == ("hi", "stop", True, 5)
    assert server.bodies[0] == {
        "model": "m",
        "messages": [{"role": "user", "content": "hello"}],
        "max_tokens": 9,
        "temperature": 0.5,
        "top_p": 0.9,
        "seed": 3,
        "stop": ["X"],
    }
    assert client.usage.as_dict() == {
        "calls": 1,
        "retries": 0,
        "cache_hits": 0,
        "prompt_tokens": 7,
        "completion_tokens": 5,
    }


def test_truncated_empty_and_refused_replies_are_told_apart(serve, open_client):
    replies = [completion("half", finish="length"), completion(None), completion(None, refusal="I will not")]
    client = open_client(serve(lambda body, number: replies[number]))
    cut, empty, refused = (client.ask(request(str(number))) for number in range(3))
    assert (cut.text, cut.finished, cut.finish) == ("half", False, "length")
    assert (empty.text, empty.finished, empty.refusal) == ("", True, None)
    assert (refused.text, refused.finished, refused.refusal) == ("", False, "I will not")


def test_top_logprobs_per_token(serve, open_client):
    server = serve(lambda body, number: completion("Yes", top=[{"Yes": -0.25, "No": -1.5}] if number == 0 else None))
    client = open_client(server)
    reply = client.ask(request(top_logprobs=2))
    assert [(one.token, one.logprob) for one in reply.top_logprobs[0]] == [("Yes", -0.25), ("No", -1.5)]
    assert server.bodies[0]["logprobs"] is True
    assert server.bodies[0]["top_logprobs"] == 2
    assert client.ask(request()).top_logprobs is None


def test_half_a_surrogate_pair_goes_both_ways(serve, open_client, tmp_path):
    server = serve(lambda body, number: Answering(json.dumps(completion("a\ud83d")).encode()))
    client = open_client(server, cache=tmp_path / "cache.sqlite")
    first, second = client.ask(request("b\ud83d")), client.ask(request("b\ud83d"))
    assert (first.text, second.text, second.cached) == ("a\ud83d", "a\ud83d", True)
    assert said(server.bodies[0]) == "b?"


# ---- address, key, model ----


@pytest.mark.parametrize("ending", ["", "/", "/v1", "/v1/", "/v1/chat/completions", "/v1/models"])
def test_the_address_may_be_written_in_many_ways(serve, open_client, ending):
    server = serve(lambda body, number: "hi")
    assert open_client(server.url.removesuffix("/v1") + ending).ask(request()).text == "hi"


@pytest.mark.parametrize("address", ["localhost:8080/v1", "ftp://host/v1", "http://", "http://host:port/v1", ""])
def test_what_is_no_address_is_refused_at_once(address):
    with pytest.raises(ValueError, match=r"base_url: .*http://localhost:8080/v1"):
        ChatClient(address)


@pytest.mark.parametrize("wrong", [{"concurrency": 0}, {"retries": -1}, {"timeout": 0}])
def test_numbers_that_cannot_be_are_refused(wrong):
    with pytest.raises(ValueError, match="at least 1 request"):
        ChatClient("http://localhost:1", **wrong)


def test_the_only_model_is_taken(serve, open_client):
    assert open_client(serve(lambda body, number: "hi", models=("only",))).describe()["model"] == "only"


@pytest.mark.parametrize(("models", "words"), [(("a", "b"), r"2 models \(a, b\)"), ((), "lists no models")])
def test_several_models_or_none_ask_for_a_name(serve, open_client, models, words):
    with pytest.raises(EndpointError, match=f"model: .*{words}; name the one to use"):
        open_client(serve(lambda body, number: "hi", models=models)).ask(request())


def test_a_model_that_is_not_there_names_those_that_are(serve, open_client):
    server = serve(lambda body, number: failure(404, "The model does not exist"), models=("judge-large", "other"))
    with pytest.raises(EndpointError, match="no model 'juge-large'; it has judge-large, other; did you mean 'judge-l"):
        open_client(server, model="juge-large").ask(request())
    assert len(server.bodies) == 1


def test_the_key_is_sent_and_never_shown(serve, open_client, monkeypatch, tmp_path):
    key = "sk-very-secret"
    monkeypatch.setenv("OPENAI_API_KEY", key)
    server = serve(lambda body, number: "hi" if number == 0 else failure(401, f"wrong key {key}"))
    client = open_client(server, cache=tmp_path / "cache.sqlite")
    client.ask(request())
    with pytest.raises(EndpointError, match=r"status 401.*OPENAI_API_KEY") as caught:
        client.ask(request("again"))
    assert server.keys == [f"Bearer {key}"] * 2
    assert key not in f"{caught.value} {client.describe()} {vars(client)['_attempts'].address}"
    client.close()
    assert all(key.encode() not in file.read_bytes() for file in tmp_path.iterdir())


def test_the_address_is_shown_without_its_password(serve, open_client):
    server = serve(lambda body, number: "hi")
    client = open_client(server.url.replace("http://", "http://me:secret@"))
    assert client.describe()["address"] == server.url


# ---- trying again ----


@pytest.mark.parametrize("status", [408, 429, 500, 502, 503])
def test_passing_trouble_is_tried_again(serve, open_client, status):
    client = open_client(serve(lambda body, number: "hi" if number == 2 else failure(status)))
    assert client.ask(request()).text == "hi"
    assert (client.usage.calls, client.usage.retries) == (1, 2)


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        (failure(503, "loading"), r"status 503 after 3 attempts \(loading\)"),
        (Answering(b"{not json"), "gives no chat completions"),
        (Answering(b"<html>", headers={"Content-Type": "text/html"}), "gives no chat completions .*<html>"),
        (Answering({"error": {"message": "overloaded"}}), "gives no chat completions .*overloaded"),
        (Answering({"choices": []}), "gives no chat completions"),
        (Answering(completion(["parts"])), "gives no chat completions .*list"),
    ],
)
def test_trouble_that_stays_ends_in_one_error(serve, open_client, answer, words):
    server = serve(lambda body, number: answer)
    with pytest.raises(EndpointError, match=words):
        open_client(server, model="m", retries=2).ask(request())
    assert len(server.bodies) == 3


def test_a_reply_that_is_no_json_is_tried_again(serve, open_client):
    client = open_client(serve(lambda body, number: "hi" if number else Answering(b"{not json")))
    assert client.ask(request()).text == "hi"


def test_a_dropped_connection_is_tried_again(serve, open_client):
    client = open_client(serve(lambda body, number: "hi" if number else Answering(hang_up=True)))
    assert client.ask(request()).text == "hi"


@pytest.mark.parametrize(
    ("status", "words"),
    [(400, "status 400"), (401, "OPENAI_API_KEY"), (403, "may not use"), (404, "usually ends in /v1")],
)
def test_the_request_s_own_faults_are_not_tried_again(serve, open_client, status, words):
    server = serve(lambda body, number: failure(status, "no such thing"))
    with pytest.raises(EndpointError, match=words) as caught:
        open_client(server).ask(request())
    assert caught.value.status == status
    assert not isinstance(caught.value, RejectedError)
    assert len(server.bodies) == 1


def test_no_credit_left_is_not_waited_for(serve, open_client):
    server = serve(lambda body, number: failure(429, "You exceeded your quota", code="insufficient_quota"))
    with pytest.raises(EndpointError, match="no credit left"):
        open_client(server).ask(request())
    assert len(server.bodies) == 1


def test_a_wrong_address_is_told_at_once(serve, open_client):
    server = serve(lambda body, number: "hi")
    server.close()
    client = open_client(server, model="m")
    with pytest.raises(EndpointError, match=f"{server.url} cannot be reached .*is the server running"):
        client.ask(request())
    assert client.usage.retries == 1


def test_a_server_that_was_there_is_waited_for(serve, open_client):
    server = serve(lambda body, number: "hi" if number == 0 else Answering(hang_up=True))
    client = open_client(server, retries=3)
    client.ask(request())
    with pytest.raises(EndpointError, match="cannot be reached"):
        client.ask(request("again"))
    assert client.usage.retries == 3


def test_time_outs_are_tried_again_and_named(serve, open_client):
    release = threading.Event()
    server = serve(lambda body, number: release.wait(30) and "late")
    client = open_client(server, model="m", timeout=0.2)
    with pytest.raises(EndpointError, match=r"no answer within 0.2 seconds, 3 times"):
        client.ask(request())
    release.set()


@pytest.fixture
def waits(monkeypatch):
    """The seconds that a client waits between attempts, without waiting."""
    found = []
    monkeypatch.setattr("ultrafuser.endpoint.attempts._pause", lambda stop, seconds: found.append(seconds))
    monkeypatch.setattr("ultrafuser.endpoint.attempts.Pace.hold", lambda pace, seconds: None)
    return found


@pytest.mark.parametrize(
    ("headers", "low", "high"),
    [
        ({"Retry-After": "7"}, 7, 7),
        ({"retry-after-ms": "1500"}, 1.5, 1.5),
        ({"Retry-After": "0"}, 0, 0),
        ({"Retry-After": "soon"}, 0.5, 1),
        ({"Retry-After": "nan"}, 0.5, 1),
        ({}, 0.5, 1),
    ],
)
def test_retry_after_is_respected(serve, open_client, waits, headers, low, high):
    answers = [failure(429, headers=headers), "hi"]
    assert open_client(serve(lambda body, number: answers[number]), backoff=1).ask(request()).text == "hi"
    assert len(waits) == 1
    assert low <= waits[0] <= high


def test_retry_after_may_be_a_date(serve, open_client, waits):
    date = email.utils.formatdate(time.time() + 100, usegmt=True)
    answers = [failure(503, headers={"Retry-After": date}), "hi"]
    open_client(serve(lambda body, number: answers[number])).ask(request())
    assert 0 < waits[0] <= 100


def test_an_hour_is_not_waited_for(serve, open_client, waits):
    server = serve(lambda body, number: failure(429, headers={"Retry-After": "3600"}))
    with pytest.raises(EndpointError, match="pause of 3600 s"):
        open_client(server).ask(request())
    assert waits == []


def test_waits_grow_and_are_spread(serve, open_client, waits):
    with pytest.raises(EndpointError):
        open_client(serve(lambda body, number: failure(500)), retries=5, backoff=10).ask(request())
    for wait, longest in zip(waits, (10, 20, 30, 30, 30), strict=True):
        assert longest / 2 <= wait <= longest


def test_a_wait_ends_when_told_to_stop():
    stop = threading.Event()
    stop.set()
    attempts = Attempts("http://x", retries=3, backoff=1000, timeout=1, secret="")

    def call():
        raise BadReplyError("nothing")

    with pytest.raises(EndpointError, match="stopped"):
        attempts.run(call, stop)


# ---- requests that are refused for their own sake ----


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        (failure(400, "This model's maximum context length is 8 tokens", code="context_length_exceeded"), "too long"),
        (failure(400, "too big", type="exceed_context_size_error"), "too long"),
        (failure(400, "filtered", code="content_filter"), "content filter"),
        (failure(413, "entity too large"), "too large"),
    ],
)
def test_a_refused_request_does_not_end_the_others(serve, open_client, answer, words):
    client = open_client(serve(lambda body, number: answer if said(body) == "1" else "ok"))
    replies = dict(client.map([request(str(number)) for number in range(3)]))
    assert isinstance(replies[1], RejectedError)
    assert words in str(replies[1])
    assert (replies[0].text, replies[2].text) == ("ok", "ok")


def test_parameters_that_a_model_refuses_are_learnt_once(serve, open_client):
    def script(body, number):
        if "max_tokens" in body:
            return failure(
                400, "Unsupported parameter: 'max_tokens'.", param="max_tokens", code="unsupported_parameter"
            )
        if "temperature" in body:
            return failure(
                400, "Unsupported value: 'temperature' does not support 0 with this model.", param="temperature"
            )
        return "ok"

    server = serve(script)
    client = open_client(server, concurrency=3)
    assert all(reply.text == "ok" for _, reply in client.map(request(str(number), max_tokens=5) for number in range(6)))
    seen = len(server.bodies)
    assert client.ask(request("last", max_tokens=5)).left_out == ("temperature",)
    assert len(server.bodies) == seen + 1
    assert server.bodies[-1]["max_completion_tokens"] == 5


def test_a_parameter_that_cannot_be_left_out_is_an_error(serve, open_client):
    server = serve(lambda body, number: failure(400, "logprobs is not supported", param="logprobs"))
    with pytest.raises(EndpointError, match="logprobs is not supported"):
        open_client(server).ask(request(top_logprobs=5))


# ---- many at a time ----


def test_replies_come_in_the_order_of_their_completion(serve, open_client):
    second_done = threading.Event()

    def script(body, number):
        if said(body) == "0":
            second_done.wait(30)
        return said(body)

    client = open_client(serve(script), concurrency=2)
    seen = []
    for number, reply in client.map([request("0"), request("1")]):
        seen.append((number, reply.text))
        second_done.set()
    assert seen == [(1, "1"), (0, "0")]


def test_no_more_requests_at_a_time_than_asked_for(serve, open_client):
    lock, under_way, most = threading.Lock(), 0, 0
    full = threading.Event()

    def script(body, number):
        nonlocal under_way, most
        with lock:
            under_way += 1
            most = max(most, under_way)
            if most == 3:
                full.set()
        full.wait(30)
        with lock:
            under_way -= 1
        return "ok"

    replies = list(open_client(serve(script), concurrency=3).map(request(str(number)) for number in range(9)))
    assert sorted(number for number, _ in replies) == list(range(9))
    assert most == 3


def test_requests_are_drawn_as_they_are_needed(serve, open_client):
    drawn = []

    def requests():
        for number in range(1000):
            drawn.append(number)
            yield request(str(number))

    hold = threading.Event()
    replies = open_client(
        serve(lambda body, number: "ok" if number < 2 else hold.wait(30) and "ok"), concurrency=2
    ).map(requests())
    next(replies)
    replies.close()
    hold.set()
    assert len(drawn) < 10


def test_an_unusable_endpoint_ends_the_whole_map(serve, open_client):
    client = open_client(serve(lambda body, number: failure(401)), concurrency=4)
    with pytest.raises(EndpointError, match="401"):
        list(client.map(request(str(number)) for number in range(50)))


def test_an_error_in_the_requests_comes_out(serve, open_client):
    def requests():
        yield request()
        raise KeyError("mine")

    with pytest.raises(KeyError, match="mine"):
        list(open_client(serve(lambda body, number: "ok")).map(requests()))
