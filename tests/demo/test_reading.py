import copy

import pytest
from made_up import GOOD, made_up

from ultrafuser.demo.reading import WHY_CONTROL_WINS, WHY_FURTHER_WINS, WHY_ORACLE_WINS, Finding, findings
from ultrafuser.demo.results import Difference


def changed(**changes: dict[str, float]) -> dict[str, dict[str, float]]:
    table = copy.deepcopy(GOOD)
    for method, by_domain in changes.items():
        table[method].update(by_domain)
    return table


def by_key(table=None, **options) -> dict[str, Finding]:
    return {finding.key: finding for finding in findings(made_up(table, **options)[0])}


def test_good_numbers_read_as_a_success() -> None:
    read = by_key()
    keys = ("beats_specialists", "gate_finds_right", "tokens_beat_samples", "stage2_over_stage1")
    assert {read[key].verdict for key in (*keys, "against_uniform_stage2", "against_further_tuned")} == {"yes"}
    assert "code (1.75 against 1.80 of code)" in read["beats_specialists"].text
    assert all(why not in read[key].text for key in read for why in (WHY_CONTROL_WINS, WHY_FURTHER_WINS))


def test_a_domain_lost_to_a_specialist_is_named() -> None:
    found = by_key(changed(stage2={"math": 2.05}))["beats_specialists"]
    assert found.verdict == "no"
    assert "but not on math (2.05 against 1.90 of math)" in found.text
    found = by_key(changed(stage2=dict.fromkeys(("text", "code", "math", "composite"), 6.0)))["beats_specialists"]
    assert "nowhere better" in found.text


@pytest.mark.parametrize(
    ("method", "why", "label"),
    [
        ("uniform_stage2", WHY_CONTROL_WINS, "the uniform control wins on"),
        ("further_tuned", WHY_FURTHER_WINS, "the further-tuned code specialist wins on"),
    ],
)
def test_where_another_model_wins_it_is_said_with_the_reason(method: str, why: str, label: str) -> None:
    found = by_key(changed(**{method: {"code": 1.5, "text": 2.7}}))[f"against_{method}"]
    assert found.verdict == "no"
    assert f"{label} text (3.00 against 2.70) and code (1.75 against 1.50)" in found.text
    assert found.text.startswith("The fused model beats")
    assert why in found.text


def test_noise_is_called_even() -> None:
    table = changed(uniform_stage2=GOOD["stage2"])
    found = by_key(table, spread=0.4)["against_uniform_stage2"]
    assert found.verdict == "even"
    assert found.text.startswith("Too close to call on text")


def test_a_nominal_lead_of_the_control_is_explained_and_not_called_a_win() -> None:
    result, _ = made_up()
    result.differences["stage2_minus_uniform_stage2"]["composite"] = Difference(mean=0.04, low=-0.01, high=0.08)
    found = next(finding for finding in findings(result) if finding.key == "against_uniform_stage2")
    assert found.verdict == "even"
    assert "beats the uniform control on text" in found.text
    assert "too close to call on composite" in found.text
    assert WHY_CONTROL_WINS in found.text


def test_oracle_both_ways() -> None:
    lost = by_key(changed(stage1={"composite": 4.1}))["tokens_beat_samples"]
    assert lost.verdict == "no"
    assert WHY_ORACLE_WINS in lost.text
    even = by_key(changed(stage1={"composite": 3.6}), spread=0.5)["tokens_beat_samples"]
    assert even.verdict == "even"


def test_gate_that_prefers_the_wrong_specialist_is_told() -> None:
    result, _ = made_up()
    result.gate_weights["math"] = {"text": 0.2, "code": 0.5, "math": 0.3}
    found = next(finding for finding in findings(result) if finding.key == "gate_finds_right")
    assert found.verdict == "no"
    assert "0.50 on code in math" in found.text
    assert "it does find it elsewhere" in found.text


def test_stage_two_that_harms_is_told() -> None:
    found = by_key(changed(stage2={"text": 3.4}))["stage2_over_stage1"]
    assert found.verdict == "no"
    assert "does not improve on stage 1 on text" in found.text
