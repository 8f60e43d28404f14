import random

import pytest

from ultrafuser.demo.results import Item, right_specialist
from ultrafuser.demo.statistics import (
    loss_by_domain,
    oracle_shares,
    paired_differences,
    sample_oracle,
    weights_by_domain,
)


def item(name: str, category: str, tokens: int, loss: float, weights: list[float] | None = None) -> Item:
    return Item(id=name, category=category, n_tokens=tokens, loss_sum=loss, weights=weights)


def test_loss_is_weighted_by_tokens() -> None:
    items = [item("a", "text", 10, 20.0), item("b", "text", 30, 30.0), item("c", "math", 4, 2.0)]
    assert loss_by_domain(items) == {"text": 50.0 / 40, "math": 0.5}


def test_weights_are_weighted_by_tokens() -> None:
    items = [item("a", "text", 10, 1.0, [1.0, 0.0]), item("b", "text", 30, 1.0, [0.5, 0.5])]
    assert weights_by_domain(items, ["x", "y"])["text"] == pytest.approx({"x": 0.625, "y": 0.375})


def test_weights_of_the_wrong_number_are_refused() -> None:
    with pytest.raises(ValueError, match="one weight for each"):
        weights_by_domain([item("a", "text", 10, 1.0, [1.0])], ["x", "y"])


def test_oracle_by_hand() -> None:
    first = [item("a", "composite", 10, 20.0), item("b", "composite", 30, 90.0)]
    second = [item("a", "composite", 10, 25.0), item("b", "composite", 30, 60.0)]
    best, chosen = sample_oracle({"x": first, "y": second})
    assert chosen == ["x", "y"]
    assert loss_by_domain(best) == {"composite": (20.0 + 60.0) / 40}
    assert oracle_shares(best, chosen, ["x", "y"]) == {"composite": {"x": 0.5, "y": 0.5}}


def test_oracle_is_never_worse_than_the_best_specialist() -> None:
    rng = random.Random(3)
    rows = {name: [item(str(i), "text", 5 + i, rng.random() * (5 + i)) for i in range(40)] for name in "abc"}
    best, _ = sample_oracle(rows)
    assert loss_by_domain(best)["text"] < min(loss_by_domain(row)["text"] for row in rows.values())


def test_a_tie_goes_to_the_first() -> None:
    row = [item("a", "text", 10, 20.0)]
    assert sample_oracle({"x": row, "y": row})[1] == ["x"]


def test_different_items_are_refused() -> None:
    left, right = [item("a", "text", 10, 20.0)], [item("a", "text", 11, 20.0)]
    with pytest.raises(ValueError, match="different items"):
        paired_differences(left, right)
    with pytest.raises(ValueError, match="different items"):
        sample_oracle({"x": left, "y": right})


def test_paired_interval_sees_a_small_constant_gap_through_large_spread() -> None:
    rng = random.Random(0)
    base = [(50, 50 * (3 + rng.gauss(0, 1))) for _ in range(40)]
    left = [item(str(i), "text", n, loss - 0.1 * n) for i, (n, loss) in enumerate(base)]
    right = [item(str(i), "text", n, loss) for i, (n, loss) in enumerate(base)]
    gap = paired_differences(left, right)["text"]
    assert gap.mean == pytest.approx(-0.1)
    assert gap.low == pytest.approx(-0.1)
    assert gap.high == pytest.approx(-0.1)
    assert gap.sign == -1


def test_paired_interval_covers_zero_for_noise() -> None:
    rng = random.Random(0)
    left = [item(str(i), "text", 50, 150 + rng.gauss(0, 20)) for i in range(60)]
    right = [item(str(i), "text", 50, 150 + rng.gauss(0, 20)) for i in range(60)]
    gap = paired_differences(left, right)["text"]
    assert gap.low < 0 < gap.high
    assert gap.sign == 0


def test_right_specialist_needs_exactly_one_name() -> None:
    assert right_specialist(["zoo-text", "zoo-code"], "code") == "zoo-code"
    with pytest.raises(ValueError, match="hold 2 names"):
        right_specialist(["code", "code2"], "code")
