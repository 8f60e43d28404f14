import itertools
import math

import numpy as np
import pytest

from ultrafuser.evaluation.record import Entry
from ultrafuser.evaluation.statistics import (
    RESAMPLES,
    difference_draws,
    paired,
    pass_at_k,
    score_draws,
    summarise,
)


def entries(values, metric="accuracy", **fields) -> list[Entry]:
    return [Entry(id=f"i{number}", scores={metric: value}, **fields) for number, value in enumerate(values)]


def test_mean_of_right_and_wrong_items_with_both_intervals() -> None:
    summary = summarise(entries([1, 1, 1, 0] * 10, seconds=0.5, tokens=8, answers=["x"], extracted="x"), "accuracy")
    assert summary["metric"] == "accuracy"
    assert summary["score"] == 0.75
    assert summary["n"] == 40
    assert summary["seconds"] == 20
    low, high = summary["ci95"]
    # binomial(40, 0.75) / 40 has its 2.5% and 97.5% quantiles at 0.6 and 0.875
    assert low == pytest.approx(0.6, abs=0.026)
    assert high == pytest.approx(0.875, abs=0.026)
    # Clopper-Pearson for 30 of 40, from the beta quantiles
    assert summary["exact95"] == pytest.approx([0.5880, 0.8731], abs=2e-4)
    assert summary["counts"] == {
        "answers": 40,
        "unfinished": 0,
        "nothing_extracted": 0,
        "flagged": 0,
        "unscored": 0,
        "mean_tokens": 8,
    }


def test_none_of_forty_keeps_an_exact_interval_where_the_bootstrap_has_none() -> None:
    summary = summarise(entries([0] * 40), "accuracy")
    assert summary["ci95"] == [0, 0]
    assert "no spread" in summary["note"]
    assert summary["exact95"] == pytest.approx([0, 1 - 0.025 ** (1 / 40)])  # the rule of three's exact form
    assert summarise(entries([1] * 40), "accuracy")["exact95"] == pytest.approx([0.025 ** (1 / 40), 1])


def test_ratings_and_weighted_scores_have_no_binomial_interval() -> None:
    assert "exact95" not in summarise(entries([1] * 5, "rating"), "rating")
    uneven = [Entry(id=str(n), scores={"accuracy": n % 2}, weight=1 + n) for n in range(4)]
    assert "exact95" not in summarise(uneven, "accuracy")
    assert "exact95" not in summarise(entries([0.5, 1, 0]), "accuracy")


def test_a_loss_is_summed_loss_over_summed_tokens() -> None:
    rows = [Entry(id="a", scores={"loss": 2.0}, weight=10), Entry(id="b", scores={"loss": 4.0}, weight=30)]
    summary = summarise(rows, "loss")
    assert summary["score"] == pytest.approx((2 * 10 + 4 * 30) / 40)
    assert summary["ci95"] == pytest.approx([2, 4])  # aa, ab, bb: the extremes have chance 1/4 each


def test_one_item_and_none_have_no_interval_and_say_so() -> None:
    one = summarise(entries([1]), "accuracy")
    assert (one["score"], one["ci95"], one["n"]) == (1, None, 1)
    assert "one item" in one["note"]
    none = summarise([], "accuracy")
    assert (none["score"], none["ci95"], none["n"], none["counts"]["mean_tokens"]) == (None, None, 0, None)


def test_the_same_seed_gives_the_same_interval_and_another_a_near_one() -> None:
    rows = entries(np.random.default_rng(5).random(50), "loss")
    first, again, other = (summarise(rows, "loss", seed=seed)["ci95"] for seed in (1, 1, 2))
    assert first == again
    assert first != other
    assert first == pytest.approx(other, abs=0.02)


def test_groups_other_metrics_and_counts() -> None:
    rows = [
        Entry(id="a", group="g", scores={"accuracy": 1, "mc2": 0.25}, answers=["1"], extracted="1", tokens=3),
        Entry(id="b", group="g", scores={"accuracy": 0, "mc2": 0.75}, answers=["?"], finished=False, tokens=9),
        Entry(id="c", group="h", scores={"accuracy": 1}, detail={"flagged": True}, answers=["2"], extracted=" "),
        Entry(id="d", scores={"accuracy": math.nan}),
    ]
    summary = summarise(rows, "accuracy")
    assert summary["score"] == pytest.approx(2 / 3)
    assert summary["groups"]["g"]["score"] == 0.5
    assert summary["groups"]["h"]["n"] == 1
    assert summary["also"]["mc2"]["score"] == 0.5
    assert summary["also"]["mc2"]["n"] == 2
    counts = {"answers": 4, "unfinished": 1, "nothing_extracted": 2, "flagged": 1, "unscored": 1, "mean_tokens": 3}
    assert summary["counts"] == counts


def test_samples_of_an_item_are_averaged_before_items_are() -> None:
    rows = [Entry(id="a", sample=s, scores={"pass@1": v}) for s, v in enumerate([1, 1, 0, 0])]
    rows += [Entry(id="b", sample=s, scores={"pass@1": 0}) for s in range(2)]
    summary = summarise(rows, "pass@1", pass_at=(1, 2, 4))
    assert summary["score"] == 0.25  # not 2 of 6
    assert summary["n"] == 2
    assert "exact95" not in summary
    assert "pass@1" not in summary["also"]  # it is the score itself
    assert summary["also"]["pass@2"]["score"] == pytest.approx((1 - 1 / 6) / 2)
    four = summary["also"]["pass@4"]
    assert (four["score"], four["n"]) == (1, 1)
    assert four["note"] == "1 of 2 items have fewer than 4 samples"


def test_pass_at_k_of_nothing_right_keeps_an_exact_interval() -> None:
    rows = [Entry(id=str(i), sample=s, scores={"pass@1": 0}) for i in range(12) for s in range(4)]
    two = summarise(rows, "pass@1", pass_at=(1, 2))["also"]["pass@2"]
    assert two["ci95"] == [0, 0]
    assert two["exact95"] == pytest.approx([0, 1 - 0.025 ** (1 / 12)])


def test_pass_at_k_equals_the_share_of_draws_with_a_right_one() -> None:
    for samples in range(1, 8):
        for correct, k in itertools.product(range(samples + 1), range(1, samples + 1)):
            draws = list(itertools.combinations([1] * correct + [0] * (samples - correct), k))
            expected = sum(any(draw) for draw in draws) / len(draws)
            assert pass_at_k(samples, correct, k) == pytest.approx(expected, abs=1e-12)
    exact = 1 - math.comb(1997, 1000) / math.comb(2000, 1000)
    assert pass_at_k(2000, 3, 1000) == pytest.approx(exact, rel=1e-9)


@pytest.mark.parametrize(("samples", "correct", "k"), [(3, 4, 1), (3, 1, 4), (3, 1, 0), (3, -1, 1)])
def test_pass_at_k_refuses_what_cannot_be(samples: int, correct: int, k: int) -> None:
    with pytest.raises(ValueError, match="pass@k"):
        pass_at_k(samples, correct, k)


def test_interval_covers_the_truth_about_as_often_as_it_says() -> None:
    rng = np.random.default_rng(11)
    hits = {"binary": 0, "weighted": 0}
    for _ in range(300):
        binary = entries((rng.random(60) < 0.6).astype(float))
        low, high = summarise(binary, "accuracy")["ci95"]
        hits["binary"] += low <= 0.6 <= high
        tokens = rng.integers(5, 60, size=60)
        losses = 2 + 3 / tokens + rng.normal(0, 0.5, size=60)  # short answers are dearer: the ratio is not the mean
        rows = [
            Entry(id=str(n), scores={"loss": loss}, weight=float(weight))
            for n, (loss, weight) in enumerate(zip(losses, tokens, strict=True))
        ]
        low, high = summarise(rows, "loss")["ci95"]
        hits["weighted"] += low <= 2 + 3 / 32 <= high  # E[tokens * loss] / E[tokens], tokens 5..59
    assert 0.90 <= hits["binary"] / 300 <= 0.98, hits
    assert 0.90 <= hits["weighted"] / 300 <= 0.98, hits


def test_mcnemar_on_a_worked_table() -> None:
    a = entries([1] * 30 + [1] * 8 + [0] * 1 + [0] * 11)
    b = entries([1] * 30 + [0] * 8 + [1] * 1 + [0] * 11)
    result = paired(a, b, "accuracy")
    assert result["table"] == {"both": 30, "only_a": 8, "only_b": 1, "neither": 11}
    assert result["test"] == "McNemar, exact"
    assert result["p"] == pytest.approx(2 * (1 + 9) / 2**9)  # two-sided binomial tail of 1 of 9
    assert result["difference"] == pytest.approx(7 / 50)
    assert result["better"] == "a"
    assert paired(b, a, "accuracy")["better"] == "b"
    assert paired(a, b, "accuracy", higher_is_better=False)["better"] == "b"
    low, high = result["ci95"]
    assert 0 < low < 7 / 50 < high < 0.3


def test_a_run_against_itself_is_no_difference() -> None:
    same = entries([1, 0, 1, 1])
    result = paired(same, same, "accuracy")
    assert (result["difference"], result["p"], result["better"], result["ci95"]) == (0, 1, None, [0, 0])
    graded = entries([0.1, 0.7, 0.4])
    assert paired(graded, graded, "accuracy")["p"] == 1


def test_permutation_test_on_three_pairs_is_exact() -> None:
    a, b = entries([3.0, 2.5, 4.0], "loss"), entries([2.0, 2.0, 2.0], "loss")
    result = paired(a, b, "loss", higher_is_better=False)
    assert result["test"] == "permutation"
    assert result["p"] == pytest.approx(2 / 8)  # all three one way, of the eight ways to swap
    assert result["better"] is None
    assert result["difference"] == pytest.approx(3.5 / 3)


def test_permutation_test_keeps_its_level_and_finds_what_is_there() -> None:
    rng = np.random.default_rng(3)
    false_alarms = 0
    for _ in range(100):
        base = rng.normal(size=12)
        a, b = (entries(base + rng.normal(0, 0.3, 12), "loss") for _ in range(2))
        false_alarms += paired(a, b, "loss")["better"] is not None
    assert false_alarms <= 12
    worse = entries(base + 1 + rng.normal(0, 0.3, 12), "loss")
    assert paired(worse, entries(base, "loss"), "loss", higher_is_better=False)["better"] == "b"


def test_pairs_are_the_items_that_both_runs_have() -> None:
    a = [Entry(id=i, scores={"accuracy": v}) for i, v in {"x": 1, "y": 0, "z": 1}.items()]
    b = [Entry(id=i, scores={"accuracy": v}) for i, v in {"z": 0, "x": 1, "w": 1, "v": 1}.items()]
    result = paired(a, b, "accuracy")
    assert (result["n"], result["only_in_a"], result["only_in_b"]) == (2, 1, 2)
    assert result["table"] == {"both": 1, "only_a": 1, "only_b": 0, "neither": 0}
    assert result["difference"] == 0.5
    apart = paired(a, entries([1]), "accuracy")
    assert (apart["n"], apart["difference"], apart["p"], apart["better"]) == (0, None, None, None)
    single = paired(a[:1], b[1:2], "accuracy")
    assert (single["n"], single["ci95"], single["p"]) == (1, None, 1)


def test_several_samples_are_not_fed_to_mcnemar() -> None:
    a = [Entry(id=str(i), sample=s, scores={"pass@1": i % 2}) for i in range(4) for s in range(2)]
    b = [Entry(id=str(i), sample=s, scores={"pass@1": 0}) for i in range(4) for s in range(2)]
    assert paired(a, b, "pass@1")["test"] == "permutation"


def test_draws_are_centred_on_score_and_difference() -> None:
    rng = np.random.default_rng(0)
    a, b = entries(rng.random(80), "loss"), entries(rng.random(80) + 1, "loss")
    score = summarise(a, "loss")["score"]
    draws = score_draws(a, "loss", seed=[0, 1])
    assert draws.shape == (RESAMPLES,)
    assert draws.mean() == pytest.approx(score, abs=0.01)
    difference = difference_draws(a, b, "loss", seed=1)
    assert difference.mean() == pytest.approx(paired(a, b, "loss")["difference"], abs=0.01)
    assert score_draws(a[:1], "loss") is None
    assert difference_draws(a[:1], b, "loss") is None
