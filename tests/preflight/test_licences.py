from pathlib import Path

import pytest

from ultrafuser.preflight.findings import Report
from ultrafuser.preflight.licences import Licence, check_licences, families, family_of, read_licence


def judged(**licences: str) -> Report:
    report = Report()
    check_licences({name: Licence((ids,) if ids else (), "README.md") for name, ids in licences.items()}, report)
    return report


def test_no_licence_stands_in_two_families() -> None:
    every = [name for names in families().values() for name in names]
    assert len(every) == len(set(every))


@pytest.mark.parametrize(
    ("name", "family"),
    [
        ("apache-2.0", "permissive"),
        ("MIT", "permissive"),
        ("cc-by-sa-4.0", "share-alike"),
        ("cc-by-nc-4.0", "non-commercial"),
        ("llama3.1", "restricted"),
        ("llama9", "restricted"),
        ("gemma", "restricted"),
        ("cc-by-nd-4.0", "no-derivatives"),
        ("my-own", "unknown"),
        ("other (mixed)", "restricted"),
    ],
)
def test_families(name: str, family: str) -> None:
    assert family_of(name) == family


def test_permissive_parts_combine() -> None:
    report = judged(text="apache-2.0", code="mit", math="bsd-3-clause")
    assert report.warnings == []
    assert report.licence["combinable"]
    assert report.licence["strictest"] == "permissive"


@pytest.mark.parametrize(
    ("parts", "strictest", "warnings"),
    [
        ({"a": "apache-2.0", "b": "llama3"}, "restricted", []),
        ({"a": "llama2", "b": "gemma"}, "restricted", []),
        ({"a": "mit", "b": "gpl-3.0"}, "share-alike", []),
        ({"a": "gpl-3.0", "b": "agpl-3.0"}, "share-alike", []),
        ({"a": "cc-by-sa-3.0", "b": "cc-by-sa-4.0"}, "share-alike", []),
        ({"a": "cc-by-sa-4.0", "b": "gpl-2.0"}, "share-alike", ["cannot both govern one model"]),
        ({"a": "gpl-3.0", "b": "llama3"}, "restricted", ["wants the whole under its own terms, which b (llama3)"]),
        ({"a": "mit", "b": "cc-by-nc-4.0"}, "non-commercial", ["forbids commercial use"]),
        ({"a": "cc-by-nc-sa-4.0", "b": "cc-by-nc-4.0"}, "non-commercial", ["forbids commercial", "forbids commercial"]),
        (
            {"a": "cc-by-sa-4.0", "b": "cc-by-nc-4.0"},
            "non-commercial",
            ["forbids commercial use", "wants the whole under its own terms"],
        ),
        ({"a": "mit", "b": "cc-by-nd-4.0"}, "no-derivatives", ["forbids passing on changed versions"]),
        ({"a": "mit", "b": "homemade"}, "unknown", ["'homemade' is not in the table"]),
        ({"a": "mit", "b": ""}, "unknown", ["licence unknown"]),
        ({"a": "other (mixed)", "b": "other (mixed)"}, "restricted", []),
    ],
)
def test_combinations(parts: dict[str, str], strictest: str, warnings: list[str]) -> None:
    report = judged(**parts)
    assert report.licence["strictest"] == strictest
    assert report.licence["combinable"] is (warnings == [])
    assert len(report.warnings) == len(warnings), report.warnings
    for found, expected in zip(report.warnings, warnings, strict=True):
        assert expected in found.message


def test_duties_of_a_makers_own_terms_are_told() -> None:
    messages = [finding.message for finding in judged(a="llama3.1", b="gemma").findings]
    assert any("Built with Llama" in message for message in messages)
    assert any("Gemma terms" in message for message in messages)


@pytest.mark.parametrize(
    ("card", "ids"),
    [
        ("---\nlicense: apache-2.0\n---\ntext", ("apache-2.0",)),
        ("---\nlicense: [mit, cc-by-4.0]\n---\n", ("mit", "cc-by-4.0")),
        ("---\nlicense: other\nlicense_name: gemma\n---\n", ("gemma",)),
        ("---\nlicense: other\nlicense_name: mixed\n---\n", ("other (mixed)",)),
        ("---\nlicense: [\n---\n", ()),
        ("no front matter\n", ()),
        ("---\n- a list\n---\n", ()),
    ],
)
def test_cards(tmp_path: Path, card: str, ids: tuple[str, ...]) -> None:
    (tmp_path / "README.md").write_text(card)
    assert read_licence(tmp_path).ids == ids


def test_a_licence_file_speaks_where_the_card_does_not(tmp_path: Path) -> None:
    assert read_licence(tmp_path) == Licence((), "no README.md with a license, no LICENSE file")
    (tmp_path / "LICENSE").write_text("                  Apache License\n       Version 2.0")
    assert read_licence(tmp_path) == Licence(("apache-2.0",), "LICENSE")
    (tmp_path / "LICENSE").write_text("GNU LESSER GENERAL PUBLIC LICENSE")
    assert read_licence(tmp_path).ids == ("lgpl-3.0",)
    (tmp_path / "LICENSE").write_text("do what you like")
    assert "not recognised" in read_licence(tmp_path).origin
