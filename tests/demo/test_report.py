import re
from html.parser import HTMLParser

from made_up import GOOD, made_up

from ultrafuser.demo.figures import loss_curves
from ultrafuser.demo.report import loss_rows, render_report, write_report
from ultrafuser.demo.results import DemoResult


class Page(HTMLParser):
    """Collects tags with their attributes and the text."""

    def __init__(self) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict]] = []
        self.text = ""

    def handle_starttag(self, tag, attrs) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data) -> None:
        self.text += data


def page() -> Page:
    parser = Page()
    parser.feed(render_report(*made_up()))
    return parser


def test_page_loads_nothing_from_anywhere() -> None:
    html = render_report(*made_up())
    parsed = page()
    assert not {"script", "link", "img", "iframe", "object"} & {tag for tag, _ in parsed.tags}
    for tag, attrs in parsed.tags:
        assert "src" not in attrs, (tag, attrs)
        assert not attrs.get("href", "#").startswith(("http", "//")), (tag, attrs)
    assert "@import" not in html
    assert not re.search(r"url\((?!#)", html)


def test_text_of_answers_and_prompts_is_escaped() -> None:
    html = render_report(*made_up())
    assert "<script>" not in html
    assert "<b>now</b>" not in html
    shown = page().text
    assert "<b>now</b>" in shown
    assert "ript>alert(1)" in shown


def test_weights_of_each_token_are_there_to_hover() -> None:
    tips = [attrs["data-tip"] for tag, attrs in page().tags if tag == "span" and "data-tip" in attrs]
    _, details = made_up()
    assert len(tips) == sum(len(example.tokens) for example in details.examples)
    weights = details.examples[0].tokens[0].weights
    assert tips[0] == "  ".join(f"{n} {w:.2f}" for n, w in zip(("text", "code", "math"), weights, strict=True))


def test_every_number_of_the_table_is_on_the_page() -> None:
    shown = page().text
    for by_domain in GOOD.values():
        for value in by_domain.values():
            assert f"{value:.3f}" in shown


def test_lowest_of_each_column_is_marked() -> None:
    result, _ = made_up()
    marked = {row.label: row.best for row in loss_rows(result)}
    assert marked["fused, stage 2"] == ("text", "code", "math", "composite")
    result.loss.further_tuned["code"] = 0.5
    marked = {row.label: row.best for row in loss_rows(result)}
    assert marked["further tuned"] == ("code",)
    assert "code" not in marked["fused, stage 2"]


def test_curves_are_inline_and_take_the_page_colour() -> None:
    _, details = made_up()
    svg = loss_curves(details.curves)
    assert svg.startswith("<svg")
    assert "currentColor" in svg
    assert "nats per response token" in svg
    assert svg == loss_curves(details.curves)


def test_report_is_written_whole(tmp_path) -> None:
    write_report(tmp_path / "report.html", *made_up())
    assert [path.name for path in tmp_path.iterdir()] == ["report.html"]


def test_result_round_trips_through_json() -> None:
    result, _ = made_up()
    again = DemoResult.model_validate_json(result.model_dump_json())
    assert again == result
