import json
import re
import shutil
import subprocess
from html.parser import HTMLParser
from pathlib import Path

import pytest
from made_up_runs import NAMES, NASTY, made_up_run, nasty_run

from ultrafuser.analysis.colours import PALETTE as HOUSE
from ultrafuser.evaluation import report_items
from ultrafuser.evaluation.compare import compare_runs
from ultrafuser.evaluation.record import Entry, Run
from ultrafuser.evaluation.report import PALETTE, render
from ultrafuser.evaluation.report_items import json_for_html, pack, specialist_names

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
BROWSER_FLAGS = [
    "--headless",
    "--no-sandbox",
    "--no-first-run",
    "--disable-gpu",
    "--disable-quic",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--enable-logging=stderr",
    "--virtual-time-budget=3000",
    "--dump-dom",
]
needs_browser = pytest.mark.skipif(CHROMIUM is None, reason="no Chromium to open pages with")
COLOURS = dict.fromkeys(NAMES, "#000000")


class Page(HTMLParser):
    """Tags with their attributes, the text outside of scripts, and the scripts."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict]] = []
        self.text, self.scripts, self._inside = "", [], ""
        self.feed(html)

    def handle_starttag(self, tag, attrs) -> None:
        self.tags.append((tag, dict(attrs)))
        self._inside = tag
        if tag == "script":
            self.scripts.append("")

    def handle_endtag(self, tag) -> None:
        self._inside = ""

    def handle_data(self, data) -> None:
        if self._inside == "script":
            self.scripts[-1] += data
        elif self._inside != "style":
            self.text += data

    @property
    def data(self) -> dict:
        return json.loads(self.scripts[0])


def page_of(*runs: Run) -> Page:
    return Page(render(runs, compare_runs(runs)))


@pytest.fixture
def runs(tmp_path: Path) -> list[Run]:
    return [
        made_up_run(tmp_path, "fused", 0.9),
        made_up_run(tmp_path, "text", 0.2, specialists=("text",)),
        made_up_run(tmp_path, "math", 0.3, specialists=("math",), max_new_tokens=64),
    ]


def test_colours_are_the_houses() -> None:
    assert PALETTE == HOUSE


def test_page_loads_nothing_from_anywhere(runs) -> None:
    html = render(runs, compare_runs(runs))
    page = Page(html)
    assert not {"img", "iframe", "object", "embed", "base"} & {tag for tag, _ in page.tags}
    for tag, attrs in page.tags:
        assert "src" not in attrs, (tag, attrs)
        assert attrs.get("href", "data:,") == "data:,", (tag, attrs)
        assert not [name for name in attrs if name.startswith("on")], (tag, attrs)
    assert not re.search(r"@import|url\(|http-equiv=\"refresh|fetch\(|XMLHttpRequest|innerHTML", html)
    policy = next(attrs["content"] for tag, attrs in page.tags if attrs.get("http-equiv") == "Content-Security-Policy")
    assert "default-src 'none'" in policy
    assert "script-src 'sha256-" in policy


def test_every_score_with_its_interval_is_on_the_page(runs) -> None:
    comparison = compare_runs(runs)
    text = page_of(*runs).text
    for table in comparison.benchmarks.values():
        assert table["verdict"] in text
    for name in comparison.runs:
        summary = comparison.benchmarks["gsm8k"]["scores"][name]
        assert f"{100 * summary['score']:.1f}" in text
        assert " to ".join(f"{100 * end:.1f}" for end in summary["ci95"]) in text
    for warning in comparison.warnings:
        assert warning in text
    assert "p < 0.001" in text
    assert "best of the others, per benchmark" in text


def test_error_bars_stand_where_the_figures_are(runs) -> None:
    summary = compare_runs(runs[:1]).benchmarks["gsm8k"]["scores"]["fused"]
    html = render(runs[:1], compare_runs(runs[:1]))
    low, high = (100 * end for end in summary["ci95"])
    first = re.search(r'class="span" d="M([\d.]+) 6V16M([\d.]+) 6V16', html)
    dot = re.search(r'class="dot" d="M([\d.]+) ', html)
    assert [float(end) for end in first.groups()] == pytest.approx([low, high], abs=0.01)
    assert float(dot.group(1)) == pytest.approx(100 * summary["score"], abs=0.01)


def test_nothing_right_is_drawn_with_its_exact_interval(tmp_path: Path) -> None:
    html = render([run := made_up_run(tmp_path, "none", -1.0)], compare_runs([run]))
    low, high = re.search(r'class="span" d="M([\d.]+) 6V16M([\d.]+) 6V16', html).groups()
    assert (float(low), float(high)) == (0, pytest.approx(100 * (1 - 0.025 ** (1 / 60)), abs=0.01))


def test_gate_weights_are_means_over_tokens_in_the_specialists_colours(runs) -> None:
    page = page_of(*runs)
    rows = runs[0].entries["gsm8k"]
    tokens = sum(entry.tokens for entry in rows)
    mean = sum(entry.gate_weights["math"] * entry.tokens for entry in rows) / tokens
    shades = [attrs["style"] for _, attrs in page.tags if attrs.get("class") == "weight"]
    assert f"color-mix(in srgb, {PALETTE[2]} {int(85 * mean)}%" in shades[2]
    assert specialist_names(runs) == list(NAMES)
    assert "Who speaks where" not in page_of(runs[1]).text


def test_items_come_back_whole_from_the_packed_data(runs) -> None:
    data = page_of(*runs).data
    texts = data["texts"]
    assert data["runs"] == ["fused", "text", "math"]
    gsm8k = data["benchmarks"][0]
    assert [item["i"] for item in gsm8k["items"]] == [entry.id for entry in runs[0].entries["gsm8k"]]
    for number, item in enumerate(gsm8k["items"]):
        for samples, run in zip(item["r"], runs, strict=True):
            entry, (sample,) = run.entries["gsm8k"][number], samples
            assert [texts[place] for place in item["q"]] == entry.turns
            assert [texts[place] for place in sample["a"]] == entry.answers
            assert texts[sample.get("x", 0)] == (entry.extracted or "")
            assert bool(sample.get("u")) == (not entry.finished)
            prompts = {data["specialists"][j]: "".join(texts[part] for part in parts) for j, parts in sample["p"]}
            assert prompts == entry.prompts
            assert sample["s"] == entry.scores["accuracy"]
        scores = [run.entries["gsm8k"][number].scores["accuracy"] for run in runs]
        assert item["d"] == max(scores) - min(scores)
    loss = data["benchmarks"][2]["items"][3]
    assert loss["r"][0][0]["l"] == [[[-3.5, 4]]]
    assert [texts[loss["k"][0][0]], texts[loss["k"][0][1][0]]] == ["Say 3.", "3"]


def test_a_text_stands_once_however_often_it_is_used(runs) -> None:
    texts = page_of(*runs).data["texts"]
    assert len(texts) == len(set(texts))
    assert sum("What is 7 plus 7?" in text for text in texts) == 1  # prompts of all specialists and runs share it


def test_long_texts_are_cut_in_their_middle_and_shorter_where_there_are_many(tmp_path, monkeypatch) -> None:
    long = "".join(chr(97 + n % 26) for n in range(100_000))
    run = made_up_run(tmp_path, "r", 0.5, items=6)
    run.entries["gsm8k"][:] = [Entry(id=str(n), answers=[f"{n}{long}"], scores={"accuracy": 1}) for n in range(6)]
    comparison = compare_runs([run])
    data = pack([run], comparison, COLOURS)
    place = data["benchmarks"][0]["items"][0]["r"][0][0]["a"][0]
    text = data["texts"][place]
    assert text.startswith("0abc")
    assert text.endswith(long[-1000:])
    assert "80002 characters are left out here" in text
    assert data["lengths"][place] == 100_001
    monkeypatch.setattr(report_items, "BUDGET", 20_000)
    assert max(map(len, pack([run], comparison, COLOURS)["texts"])) < 2_100


def test_more_samples_than_the_page_holds_are_counted(tmp_path: Path) -> None:
    run = made_up_run(tmp_path, "r", 0.5, items=2)
    run.entries["gsm8k"][:] = [Entry(id="a", sample=s, answers=["x"], scores={"accuracy": s % 2}) for s in range(20)]
    item = pack([run], compare_runs([run]), COLOURS)["benchmarks"][0]["items"][0]
    assert (len(item["r"][0]), item["m"], item["s"]) == (report_items.SAMPLES, 20, [0.5])


def test_hostile_texts_stay_texts(tmp_path: Path) -> None:
    html = render([run := nasty_run(tmp_path)], compare_runs([run]))
    html.encode("utf-8")
    page = Page(html)
    assert len(page.scripts) == 2
    assert html.count("<script") == html.count("</script") == 2
    assert NASTY[0] in page.text
    assert "{{ 7 * 7 }}" in page.text
    assert page.data["texts"].count(NASTY[1]) == 1
    assert not any(tag == "img" for tag, _ in page.tags)


def test_json_cannot_end_its_script_element() -> None:
    text = json_for_html({"x": NASTY})
    assert not set(text) & set("<>&\u2028\u2029")
    assert json.loads(text) == {"x": NASTY}


def test_runs_without_answers_or_with_odd_settings_have_a_page(tmp_path: Path) -> None:
    run = made_up_run(tmp_path, "r", 0.5, items=2)
    for rows in run.entries.values():
        rows.clear()
    run.settings["subject"] = {"kind": "endpoint", "api": {"base_url": "http://localhost:1", "models": ["a", "b"]}}
    run.settings["calls"] = []
    page = page_of(run)
    assert "no answer has this score" in page.text
    assert "a, b" in page.text
    assert page.data["benchmarks"][0]["items"] == []


def opened(page: Path, state: str, profile: Path) -> str:
    """The page as Chromium has it after its script ran; the state is a part of the address."""
    command = [CHROMIUM, *BROWSER_FLAGS, f"--user-data-dir={profile}", f"{page.as_uri()}#{state}"]
    done = subprocess.run(command, capture_output=True, timeout=120, check=True)
    complaints = [line for line in done.stderr.decode(errors="replace").splitlines() if "CONSOLE" in line]
    assert not complaints, complaints
    return done.stdout.decode()


@needs_browser
def test_filters_of_the_page_in_a_browser(runs, tmp_path: Path) -> None:
    html = tmp_path / "report.html"
    html.write_text(render(runs, compare_runs(runs)), encoding="utf-8")
    dom = opened(html, "benchmark=gsm8k&show=wrong&run=1&group=odd&q=plus+5", tmp_path / "profile")
    expected = [
        entry.id
        for entry in runs[1].entries["gsm8k"]
        if entry.scores["accuracy"] == 0 and entry.group == "odd" and "plus 5" in entry.turns[0]
    ]
    assert expected
    assert re.findall(r'class="id">([^<]*)<', dom) == expected
    assert f"{len(expected)} of 60 items" in dom
    dom = opened(html, "benchmark=gsm8k&show=differ&sort=low&page=2", tmp_path / "profile")
    differing = compare_runs(runs).benchmarks["gsm8k"]["differences"]["total"]
    assert f"{differing} of 60 items" in dom
    assert "page 2 of" in dom
    dom = opened(html, "benchmark=loss&sort=low&run=0", tmp_path / "profile")
    lowest_first = sorted(runs[0].entries["loss"], key=lambda entry: entry.scores["loss"])
    assert re.findall(r'class="id">([^<]*)<', dom) == [entry.id for entry in lowest_first]
    assert "1 query" in dom


@needs_browser
def test_hostile_answers_do_nothing_in_a_browser(tmp_path: Path) -> None:
    runs = [nasty_run(tmp_path, "a"), nasty_run(tmp_path, "b")]
    html = tmp_path / "report.html"
    html.write_text(render(runs, compare_runs(runs)), encoding="utf-8")
    dom = opened(html, "", tmp_path / "profile")
    assert "<title>2 runs compared</title>" in dom
    assert "5 of 5 items" in dom
    page = Page(dom)
    assert NASTY[1] in page.text
    assert [tag for tag, _ in page.tags].count("script") == 2
    assert not [
        (tag, attrs) for tag, attrs in page.tags if tag == "img" or any(name.startswith("on") for name in attrs)
    ]
