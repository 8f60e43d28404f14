"""The arithmetic of cells against numbers worked out by hand."""

import pytest

from ultrafuser.baselines.oracles import best_per_domain, best_per_sample
from ultrafuser.reproduce.cells import (
    MEAN,
    Cell,
    Item,
    loss_by_domain,
    loss_cells,
    paired_differences,
    weights_by_domain,
)

DOMAINS = ["text", "code"]
A = [Item("1", "text", 6.0, 2, (1.0, 0.0)), Item("2", "text", 3.0, 4, (0.25, 0.75)), Item("3", "code", 5.0, 5, (0, 1))]
B = [Item("1", "text", 4.0, 2), Item("2", "text", 8.0, 4), Item("3", "code", 4.0, 5)]


def test_mean_and_sample_deviation() -> None:
    assert Cell.of([1.0, 2.0, 6.0]) == Cell(3.0, pytest.approx(7**0.5), 3)  # squares 4 + 1 + 9, over 2
    assert Cell.of([4.0]) == Cell(4.0, 0.0, 1)
    assert Cell.of([]) is None


def test_a_domain_counts_by_tokens_not_by_items() -> None:
    assert loss_by_domain(A, DOMAINS) == {"text": 9 / 6, "code": 1.0}
    assert loss_by_domain(A, ["math", "code"]) == {"code": 1.0}


def test_weights_count_by_tokens() -> None:
    found = weights_by_domain(A, DOMAINS, ["a", "b"])
    assert found["text"] == pytest.approx([(2 * 1 + 4 * 0.25) / 6, 4 * 0.75 / 6])
    with pytest.raises(ValueError, match="one weight for each of a, b, c"):
        weights_by_domain(A, DOMAINS, ["a", "b", "c"])


def test_a_row_holds_the_cells_and_their_mean() -> None:
    cells = loss_cells([A, B], DOMAINS, DOMAINS)
    assert cells["text"] == Cell(pytest.approx((1.5 + 2.0) / 2), pytest.approx(0.5 / 2**0.5), 2)
    assert cells["code"].mean == pytest.approx((1.0 + 0.8) / 2)
    assert cells[MEAN].mean == pytest.approx(((1.5 + 1.0) / 2 + (2.0 + 0.8) / 2) / 2)


def test_oracles() -> None:
    assert [item.nats for item in best_per_sample({"a": A, "b": B})] == [4.0, 3.0, 4.0]
    chosen = best_per_domain({"a": A, "b": B})  # a has 1.5 against 2.0 in text, b 0.8 against 1.0 in code
    assert [(item.id, item.nats) for item in chosen] == [("1", 6.0), ("2", 3.0), ("3", 4.0)]
    with pytest.raises(ValueError, match="a, b read different items"):
        best_per_sample({"a": A, "b": B[:2]})


def test_differences_are_paired_and_averaged_over_seeds() -> None:
    found = paired_differences([A, B], [B, B], DOMAINS, DOMAINS)
    assert found["text"].mean == pytest.approx((1.5 + 2.0) / 2 - 2.0)
    assert found[MEAN].mean == pytest.approx((-0.25 + 0.1) / 2)
    assert (found["code"].low, found["code"].high, found["code"].sign) == (None, None, 0)  # one item: no interval


def test_a_clear_difference_has_an_interval_beside_zero() -> None:
    left = [Item(str(i), "text", 10.0 + i % 3, 5) for i in range(40)]
    right = [Item(str(i), "text", 12.0 + i % 3, 5) for i in range(40)]
    found = paired_differences([left], [right], ["text"], ["text"])["text"]
    assert found.mean == pytest.approx(-0.4)
    assert (found.low, found.high) == (pytest.approx(-0.4), pytest.approx(-0.4))  # every pair differs alike
    assert found.sign == -1
