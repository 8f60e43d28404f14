"""When calls may begin: a rate, and pauses that hold all of them."""

import threading
import time

import pytest
from scripted import failure

from ultrafuser.endpoint import ChatRequest
from ultrafuser.endpoint.pace import Pace


def test_calls_are_spaced_evenly_and_the_first_need_not_wait():
    pace = Pace(6000)
    began = time.monotonic()
    waits = []
    for _ in range(6):
        assert pace.wait() is False
        waits.append(time.monotonic() - began)
    assert waits[0] < 0.009 < 0.049 < waits[-1]


def test_without_a_limit_nothing_waits_but_a_pause_holds():
    pace = Pace()
    began = time.monotonic()
    pace.wait()
    pace.hold(0.1)
    pace.wait()
    assert time.monotonic() - began >= 0.1


def test_a_stop_ends_the_wait():
    pace, stop = Pace(), threading.Event()
    pace.hold(60)
    threading.Timer(0.05, stop.set).start()
    assert pace.wait(stop) is True


@pytest.mark.parametrize("rate", [0, -1])
def test_what_is_no_rate_is_refused(rate):
    with pytest.raises(ValueError, match=r"requests_per_minute: .* is no rate"):
        Pace(rate)


def test_a_pause_that_the_endpoint_asks_for_holds_all_calls(serve, open_client):
    times = []

    def script(body, number):
        times.append(time.monotonic())
        return failure(429, headers={"Retry-After": "0.4"}) if number == 0 else "hi"

    client = open_client(serve(script), model="m")
    request = ChatRequest(({"role": "user", "content": "x"},))
    first = threading.Thread(target=client.ask, args=(request,))
    first.start()
    while not client.usage.retries:
        time.sleep(0.005)
    client.ask(request)
    first.join()
    assert min(times[1:]) - times[0] >= 0.4
