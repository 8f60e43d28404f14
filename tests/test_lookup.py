import pytest

from ultrafuser.lookup import lookup, nearest

TABLE = {"token": 1, "joint": 2, "constant": 3}


def test_an_entry_is_found_by_its_name() -> None:
    assert lookup(TABLE, "joint", "gate.type") == 2


def test_a_misspelt_name_lists_the_choices_and_the_nearest() -> None:
    with pytest.raises(ValueError) as caught:
        lookup(TABLE, "tokn", "gate.type")
    assert str(caught.value) == "gate.type: 'tokn' is not one of constant, joint, token; did you mean 'token'?"


def test_a_name_like_nothing_gets_no_suggestion() -> None:
    with pytest.raises(ValueError, match=r"'zzz' is not one of constant, joint, token$"):
        lookup(TABLE, "zzz", "gate.type")


def test_an_empty_name_is_the_field_left_out() -> None:
    with pytest.raises(ValueError) as caught:
        lookup({"": 0, "feed-forward": 1}, "feed", "variant")
    assert str(caught.value).startswith("variant: 'feed' is not one of feed-forward, nor left out")


def test_an_empty_table_says_so() -> None:
    with pytest.raises(ValueError, match="nothing to choose from"):
        lookup({}, "x", "field")


@pytest.mark.parametrize(
    ("written", "meant"), [("Learning-Rate", "learning_rate"), ("learningrate", "learning_rate"), ("step", "steps")]
)
def test_case_and_dashes_do_not_matter_for_the_nearest(written: str, meant: str) -> None:
    assert nearest(written, ["learning_rate", "steps", "name"]) == meant
