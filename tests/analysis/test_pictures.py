"""The shared pictures: heat map, lines of coloured tokens, running mean."""

import re

from ultrafuser.analysis.heat import Weighed, heat_map
from ultrafuser.analysis.svg import running_mean
from ultrafuser.analysis.token_lines import Piece, token_lines

NAMES = ["text", "code", "math"]


def test_hostile_item_names_are_escaped_in_the_heat_map() -> None:
    svg = heat_map([Weighed('<x onload="1">', "a&b", [0.5, 0.2, 0.3])], NAMES)
    assert "<x" not in svg
    assert "a&amp;b" in svg


def test_heat_map_has_one_cell_per_item_and_specialist() -> None:
    items = [Weighed(str(i), group, [0.2, i / 10, 0.8 - i / 10]) for group in ("text", "code") for i in range(8)]
    svg = heat_map(items, NAMES)
    assert svg.count("<rect") == 2 * 8 * 3
    code = re.findall(r"<title>(\d): code", svg)
    assert code == [*"01234567", *"76543210"]  # the right specialist's weight falls within its group


def test_running_mean_keeps_the_length_and_the_level() -> None:
    assert running_mean([2.0] * 7) == [2.0] * 7
    assert running_mean([1.0, 2.0, 6.0]) == [1.5, 3.0, 4.0]


def test_token_lines_hold_every_character_and_break_where_the_text_does() -> None:
    pieces = [Piece("def <f>", (0.1, 0.8, 0.1)), Piece(":\n", (0.2, 0.7, 0.1)), Piece("  x & y", (0.6, 0.2, 0.2))]
    svg = token_lines([("a title", pieces)], NAMES, columns=40)
    shown = re.findall(r'<text class="token"[^>]* y="([\d.]+)"[^>]*>([^<]*)</text>', svg)
    assert [text for _, text in shown] == ["def &lt;f&gt;", ":", "  x &amp; y"]
    assert shown[0][0] == shown[1][0] != shown[2][0]
    assert "text 0.10, code 0.80, math 0.10" in svg


def test_a_long_token_is_carried_over_to_the_next_line() -> None:
    svg = token_lines([("", [Piece("ab", (1.0,)), Piece("cdefgh", (1.0,))])], ["text"], columns=5)
    shown = re.findall(r'<text class="token"[^>]* y="([\d.]+)"[^>]*>([^<]*)</text>', svg)
    assert [text for _, text in shown] == ["ab", "cdefg", "h"]
    assert len({y for y, _ in shown}) == 3
