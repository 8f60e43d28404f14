"""The engine: budgets, several endpoints, endpoints that fail, replies that are of no use."""

import threading
import time

import pytest
from author import author, write
from scripted import completion, failure

from ultrafuser.synthesis import Journal
from ultrafuser.synthesis.pipeline import Pipeline


def run(spec, *, leave_out=False):
    """Why the run stopped, and what it has spent."""
    with Journal(spec.output_folder) as journal:
        pipeline = Pipeline(spec, journal)
        pipeline.engine.leave_out = leave_out
        return pipeline.run(review=False), journal.spent()


@pytest.fixture
def code(make_spec):
    """`code(url, **fields) -> Spec` for the code domain alone."""
    return lambda url, **fields: make_spec(url, domains=["code"], **fields)


# ---- budgets ----


def test_a_cap_on_requests_stops_and_a_higher_one_goes_on(serve, code, tmp_path):
    server = serve(author)
    for cap in (10, 25):
        stopped, spent = run(code(server.url, budget={"requests": cap}))
        assert (stopped.kind, spent.requests, len(server.bodies)) == ("budget", cap, cap)
        assert stopped.message == (
            f"budget.requests: {cap} requests are answered, and one more request could pass the cap of {cap}"
        )
    stopped, spent = run(code(server.url))
    assert stopped is None
    assert spent.requests == len(server.bodies) == len({str(body) for body in server.bodies})


@pytest.mark.parametrize(
    ("budget", "unit"), [({"tokens": 1900}, "tokens"), ({"money": 0.004}, "cost")], ids=["tokens", "money"]
)
def test_caps_on_tokens_and_money_are_never_passed(serve, code, budget, unit):
    server = serve(author)
    endpoint = {"base_url": server.url, "concurrency": 4, "input_price": 1.0, "output_price": 2.0}
    more = {"counts": {"meta_topics": 2, "sub_topics": 2, "instructions": 9, "batch": 3}, "endpoints": [endpoint]}
    stopped, spent = run(code(server.url, budget=budget, **more))
    assert stopped.kind == "budget"
    assert 0 < getattr(spent, unit) <= next(iter(budget.values()))
    higher = {name: 100 * cap for name, cap in budget.items()}
    assert run(code(server.url, budget=higher, **more))[0] is None


# ---- endpoints ----


def test_two_endpoints_work_side_by_side(serve, code):
    servers = [serve(lambda body, number: (time.sleep(0.02), author(body))[1]) for _ in range(2)]
    spec = code("", endpoints=[{"base_url": server.url, "concurrency": 3} for server in servers])
    assert run(spec)[0] is None
    seen = [{str(body["messages"]) for body in server.bodies} for server in servers]
    assert all(len(one) > 5 for one in seen)
    assert not seen[0] & seen[1]


def test_when_one_endpoint_dies_the_other_takes_over(serve, code):
    bad, good = serve(lambda body, number: failure(401, "no such key")), serve(author)
    spec = code("", endpoints=[{"base_url": server.url, "concurrency": 2} for server in (bad, good)])
    stopped, spent = run(spec)
    assert stopped is None
    assert len(bad.bodies) <= 2
    assert spent.requests == len(good.bodies)


def test_when_all_endpoints_fail_the_run_stops_and_goes_on_later(serve, code):
    broken = threading.Event()
    broken.set()
    server = serve(lambda body, number: failure(403, "not for you") if broken.is_set() else author(body))
    stopped, _ = run(code(server.url))
    assert (stopped.kind, "status 403" in stopped.message) == ("endpoints", True)
    broken.clear()
    assert run(code(server.url))[0] is None


@pytest.mark.parametrize("leave_out", [False, True])
def test_a_request_that_gets_no_answer_waits_for_the_next_run_or_is_left_out(serve, code, leave_out):
    broken = threading.Event()
    broken.set()

    def script(body, number):
        stuck = broken.is_set() and write(body).startswith(("About 0", "About 1", "About 2"))
        return failure(500, "it broke") if stuck else author(body)

    server = serve(script)
    endpoint = {"base_url": server.url, "concurrency": 2, "retries": 0}
    stopped, _ = run(code(server.url, endpoints=[endpoint]))
    assert (stopped.kind, "requests got no answer" in stopped.message) == ("unanswered", True)
    assert "it broke" in stopped.message
    if leave_out:
        spec = code(server.url, endpoints=[endpoint])
        assert run(spec, leave_out=True)[0] is None
        with Journal(spec.output_folder) as journal:
            assert 0 < len(list(journal.records("responses"))) < 18
        return
    broken.clear()
    asked = len(server.bodies)
    assert run(code(server.url, endpoints=[endpoint]))[0] is None
    assert len(server.bodies) > asked


def test_the_rate_limit_is_kept(serve, code):
    times = []
    server = serve(lambda body, number: (times.append(time.monotonic()), author(body))[1])
    endpoint = {"base_url": server.url, "concurrency": 8, "requests_per_minute": 3000}
    assert run(code(server.url, endpoints=[endpoint]))[0] is None
    assert times[-1] - times[0] >= (len(times) - 1) * 0.02 * 0.9


@pytest.mark.parametrize(
    "said",
    [
        "response_format is not supported by this model",
        "Invalid schema for response_format 'reply': 'maxItems' is not permitted",
    ],
)
def test_lists_are_asked_for_by_a_schema_until_that_is_refused(serve, code, said):
    def script(body, number):
        if "response_format" in body:
            return failure(400, said)
        return author(body)

    server = serve(script)
    assert run(code(server.url))[0] is None
    assert 0 < sum("response_format" in body for body in server.bodies) <= 4
    plain = serve(author)
    endpoint = {"base_url": plain.url, "structured": False}
    assert run(code(plain.url, endpoints=[endpoint], seed=1))[0] is None
    assert not any("response_format" in body for body in plain.bodies)


# ---- replies ----


def test_a_useless_reply_is_asked_for_again_with_another_seed_then_given_up(serve, code):
    def script(body, number):
        return "no" if "topic" in body["messages"][-1]["content"] else author(body)

    server = serve(script)
    spec = code(server.url, attempts=2)
    assert run(spec)[0] is None
    assert len({body["seed"] for body in server.bodies}) == len(server.bodies)
    with Journal(spec.output_folder) as journal:
        assert journal.counts("meta_topics") == {"code": {"unusable": 3}}
        assert journal.spent().requests == len(server.bodies) == 6


def test_a_refused_request_is_settled_at_once(serve, code):
    def script(body, number):
        refused = "maximum context length" if write(body).startswith("About") else None
        return failure(400, refused) if refused else author(body)

    spec = code(serve(script).url)
    assert run(spec)[0] is None
    with Journal(spec.output_folder) as journal:
        assert set(journal.counts("responses")["code"]) == {"unusable"}


def test_of_a_list_cut_off_for_good_the_whole_items_are_taken(serve, code):
    def script(body, number):
        text = write(body)
        cut = text[: text.rindex('"', 0, -2)] if text.count('", "') or text.count("}, {") else text
        return completion(cut, finish="length" if cut != text else "stop")

    spec = code(serve(script).url)
    assert run(spec)[0] is None
    with Journal(spec.output_folder) as journal:
        assert len(list(journal.records("meta_topics"))) == 2
        assert len(list(journal.records("responses"))) > 5


def test_a_stop_lets_answers_under_way_be_written(serve, code):
    spec = code(serve(lambda body, number: (time.sleep(0.05), author(body))[1]).url)
    with Journal(spec.output_folder) as journal:
        pipeline = Pipeline(spec, journal, lambda p: pipeline.engine.stop.set() if p.settled else None)
        assert pipeline.run(review=False).kind == "interrupted"
        assert journal.spent().requests >= 1
        assert not journal.waiting("meta_topics", -1, 10)


def test_one_run_at_a_time(serve, code):
    spec = code(serve(author).url)
    with Journal(spec.output_folder) as journal:
        pipeline = Pipeline(spec, journal)
        with journal.only_writer(), pytest.raises(ValueError, match="output: another run works in"):
            pipeline.run()
