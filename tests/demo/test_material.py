from ultrafuser.data import Conversation
from ultrafuser.demo.material import split_by_family


def conversations(category: str, families: list[str | None]) -> list[Conversation]:
    messages = [{"role": "user", "content": "q"}, {"role": "assistant", "content": "a"}]
    return [Conversation(f"{category}-{i}", category, messages, family) for i, family in enumerate(families)]


def test_no_family_stands_on_both_sides() -> None:
    given = conversations("text", [f"f{i % 12}" for i in range(120)]) + conversations(
        "math", [f"m{i % 9}" for i in range(90)]
    )
    train, validation = split_by_family(given, 0.15)
    assert not {c.family for c in train} & {c.family for c in validation}
    assert len(train) + len(validation) == len(given)
    for category, total in (("text", 120), ("math", 90)):
        share = sum(c.category == category for c in validation) / total
        assert 0.15 <= share <= 0.30


def test_a_large_family_stays_in_training() -> None:
    given = conversations("code", ["big"] * 80 + [f"s{i}" for i in range(20)])
    train, validation = split_by_family(given, 0.15)
    assert sum(c.family == "big" for c in train) == 80
    assert len(validation) == 15


def test_without_families_the_split_is_by_conversation() -> None:
    for families in ([None] * 40, ["same"] * 40):
        train, validation = split_by_family(conversations("code", families), 0.2)
        assert (len(train), len(validation)) == (32, 8)


def test_the_split_does_not_depend_on_the_order() -> None:
    given = conversations("text", [f"f{i % 7}" for i in range(70)])
    first = {c.id for c in split_by_family(given, 0.2)[1]}
    assert {c.id for c in split_by_family(given[::-1], 0.2)[1]} == first
