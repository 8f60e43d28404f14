"""The page: one file, everything escaped, every token with its exact values."""

import json
import math
import re
from html.parser import HTMLParser

import pytest

from ultrafuser.analysis.page import Explanation, Turn, render_page, visible
from ultrafuser.analysis.terminal import coloured, legend, weights_line
from ultrafuser.generation import TokenEvent

NASTY = '<script>alert("1")</script> & </span> \u2028'


class Page(HTMLParser):
    """What stands in a page: elements with their attributes, and the text of each."""

    def __init__(self, html):
        super().__init__(convert_charrefs=True)
        self.elements, self.open = [], []
        self.feed(html)
        self.close()

    def handle_starttag(self, tag, attrs):
        element = {"tag": tag, "text": "", **dict(attrs)}
        self.elements.append(element)
        if tag not in {"meta", "link", "br", "rect", "path"}:
            self.open.append(element)

    def handle_startendtag(self, tag, attrs):
        self.elements.append({"tag": tag, "text": "", **dict(attrs)})

    def handle_endtag(self, tag):
        assert self.open.pop()["tag"] == tag, f"</{tag}> closes something else"

    def handle_data(self, data):
        if self.open:
            self.open[-1]["text"] += data

    def find(self, tag, **attributes):
        return [e for e in self.elements if e["tag"] == tag and all(e.get(k) == v for k, v in attributes.items())]


def event(text, weights, token_id=7, logprob=-0.5, alone=()):
    return TokenEvent(token_id, text, tuple(weights), logprob, tuple(alone))


@pytest.fixture
def page():
    answer = [
        event("Two", [0.7, 0.2, 0.1], 11, -0.25, [-0.5, -2.0, -3.0]),
        event(NASTY, [0.1, 0.8, 0.1], 12, -1.5, [-4.0, -1.0, -5.0]),
        event("\n", [0.2, 0.2, 0.6], 13, -0.75, [-1.0, -1.0, -1.0]),
        event("", [0.3, 0.3, 0.4], 1, -0.1, [-0.1, -0.2, -0.3]),
    ]
    return Explanation(
        title="Title <b>",
        model="runs/<i>model</i>",
        names=["text", "co<de>", "math"],
        turns=[Turn("user", NASTY), Turn("assistant", "Two" + NASTY + "\n", answer, ["Two", "x", "Ċ", "</s>"])],
    )


def test_page_loads_nothing_from_anywhere(page):
    html = render_page(page)
    parsed = Page(html)
    assert not parsed.open
    for element in parsed.elements:
        assert "src" not in element
        assert element.get("href", "data:,") == "data:,"
    assert not re.search(r"url\(|@import|https?:|//[a-z]+\.", html.replace('"use strict";', ""))
    policy = parsed.find("meta", **{"http-equiv": "Content-Security-Policy"})
    assert policy[0]["content"].startswith("default-src 'none'")


def test_everything_is_escaped(page):
    parsed = Page(render_page(page))
    assert len(parsed.find("script")) == 2  # the data and the page's own
    assert not parsed.find("b")
    assert len(parsed.find("p", **{"class": "said"})) == 1
    assert parsed.find("p", **{"class": "said"})[0]["text"] == NASTY
    spans = [e for e in parsed.find("span") if e.get("class", "").split()[:1] == ["t"]]
    assert [e["text"] for e in spans] == ["Two", NASTY, "↵\n", "▪"]


def test_exact_values_of_every_token_are_in_the_page(page):
    parsed = Page(render_page(page))
    data = json.loads(parsed.find("script", id="data")[0]["text"])
    assert data["names"] == ["text", "co<de>", "math"]
    assert [t["id"] for t in data["tokens"]] == [11, 12, 13, 1]
    assert data["tokens"][0]["w"] == [0.7, 0.2, 0.1]
    assert data["tokens"][1]["f"] == pytest.approx(math.exp(-1.5), rel=1e-3)
    assert data["tokens"][1]["p"] == pytest.approx([math.exp(x) for x in (-4, -1, -5)], rel=1e-3)
    assert [t["text"] for t in data["tokens"]][2:] == ["↵", "</s>"]


def test_means_and_losses(page):
    assert page.mean_weights() == pytest.approx({"text": 0.325, "co<de>": 0.375, "math": 0.3})
    assert page.nats() == pytest.approx(0.65)
    assert page.specialist_nats()["text"] == pytest.approx((0.5 + 4 + 1 + 0.1) / 4)
    html = render_page(page)
    assert "37.5%" in html
    assert "0.650" in html


def test_one_token_can_be_reached_by_keyboard_and_the_others_from_it(page):
    spans = [e for e in Page(render_page(page)).find("span") if e.get("class", "").split()[:1] == ["t"]]
    assert [e["tabindex"] for e in spans] == ["0", "-1", "-1", "-1"]
    assert [e["data-i"] for e in spans] == ["0", "1", "2", "3"]


def test_strip_areas_fill_the_whole_height(page):
    paths = [e["d"] for e in Page(render_page(page)).find("path")]
    assert len(paths) == 3
    tops = [[float(y) for y in re.findall(r"L\d+ ([\d.]+)H", d)][:4] for d in paths]
    assert tops[-1] == pytest.approx([0, 0, 0, 0], abs=0.01)
    assert tops[0] == pytest.approx([30, 90, 80, 70], abs=0.01)


def test_untrained_gate_is_announced_only_when_it_is(page):
    assert "Untrained gate" not in render_page(page)
    warned = Explanation(page.title, page.model, page.names, page.turns, warning="random <numbers>")
    html = render_page(warned)
    assert "Untrained gate" in html
    assert "random &lt;numbers&gt;" in html
    assert warned.as_dict()["gate_trained"] is False


def test_first_token_without_weights_is_shown_but_not_counted():
    tokens = [event("One", ()), event(" two", [0.25, 0.75])]
    page = Explanation("t", "m", ["a", "b"], [Turn("text", "One two", tokens, ["One", "two"])])
    assert page.mean_weights() == {"a": 0.25, "b": 0.75}
    html = render_page(page)
    assert 'class="t none"' in html
    assert "weights" not in page.as_dict()["turns"][0]["tokens"][0]


def test_page_without_specialist_probabilities_leaves_the_column_out(page):
    bare = [event("a", [0.5, 0.5])]
    html = render_page(Explanation("t", "m", ["a", "b"], [Turn("assistant", "a", bare)]))
    assert "alone, nats per token" not in html
    assert "alone, nats per token" in render_page(page)


def test_json_holds_what_the_page_shows(page):
    data = page.as_dict()
    assert data["mean_weights"] == page.mean_weights()
    assert data["nats_per_token"]["fused"] == page.nats()
    token = data["turns"][1]["tokens"][1]
    assert token["text"] == NASTY
    assert token["weights"] == {"text": 0.1, "co<de>": 0.8, "math": 0.1}
    assert token["specialist_probabilities"]["co<de>"] == pytest.approx(math.exp(-1.0))
    json.dumps(data)


def test_white_space_is_made_visible():
    assert visible(" a\n\t") == "␣a↵⇥"


def test_terminal_text_keeps_the_answer_and_shows_each_name():
    tokens = [event("Hi", [0.7, 0.3]), event(" you", [0.2, 0.8])]
    assert coloured(tokens).plain == "Hi you"
    assert legend(["text", "code"]).plain == "■ text  ■ code"
    line = weights_line({"text": 0.4, "code": 0.6}, width=10)
    assert line.plain == "█" * 10 + "  text 40%  code 60%"
    plain = weights_line({"text": 0.4, "code": 0.6}, width=10, plain=True)
    assert plain.plain == "████▒▒▒▒▒▒  █ text 40%  ▒ code 60%"
