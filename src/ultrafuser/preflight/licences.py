"""Licences of the specialists, and whether one model made of all of them may be passed on. Not legal advice.

Families, from free to strict: permissive (keep the notices), share-alike (the whole under the same licence),
restricted (a maker's own terms, e.g. Llama or Gemma, with rules of use), non-commercial, no-derivatives, unknown.
"""

import re
from dataclasses import dataclass
from functools import lru_cache
from importlib import resources
from pathlib import Path
from typing import Any

import yaml

from ultrafuser.preflight.findings import Report

NOTES = {
    "llama": "keep its licence text, show 'Built with Llama', from version 3 on begin the name with 'Llama'",
    "gemma": "pass on the Gemma terms and its list of prohibited uses",
    "openrail": "pass on its list of prohibited uses",
    "bigscience": "pass on its list of prohibited uses",
    "bigcode": "pass on its list of prohibited uses",
}

STRICT_FIRST = ("unknown", "no-derivatives", "non-commercial", "restricted", "share-alike", "permissive")
GATE_ONLY = "keep the fused model private, or publish the gate-only form, which only points at the parts"

# Share-alike licences that may be passed on together under the strictest of them.
ONE_WAY = (
    {"lgpl-2.1", "lgpl-3.0", "lgpl", "gpl", "gpl-3.0", "agpl-3.0", "cc-by-sa-4.0", "mpl-2.0"},
    {"gpl-2.0", "lgpl-2.1", "mpl-2.0"},
    {"cc-by-sa", "cc-by-sa-3.0", "cc-by-sa-4.0"},
    {"cc-by-nc-sa-2.0", "cc-by-nc-sa-3.0", "cc-by-nc-sa-4.0"},
)

_TEXTS = (
    ("Apache License", "apache-2.0"),
    ("MIT License", "mit"),
    ("GNU AFFERO GENERAL PUBLIC", "agpl-3.0"),
    ("GNU LESSER GENERAL PUBLIC", "lgpl-3.0"),
    ("GNU GENERAL PUBLIC", "gpl-3.0"),
    ("LLAMA 2 COMMUNITY LICENSE", "llama2"),
    ("META LLAMA 3", "llama3"),
    ("LLAMA 3.1 COMMUNITY", "llama3.1"),
    ("LLAMA 3.2 COMMUNITY", "llama3.2"),
    ("Gemma Terms of Use", "gemma"),
)


@dataclass(frozen=True)
class Licence:
    """Licences of one specialist: identifiers as the Hub writes them, and where they were read."""

    ids: tuple[str, ...]
    origin: str

    @property
    def families(self) -> list[str]:
        """The family of each identifier."""
        return [family_of(name) for name in self.ids] or ["unknown"]


@lru_cache(maxsize=1)
def families() -> dict[str, list[str]]:
    """The table of licence identifiers by family (licences.yaml)."""
    text = resources.files("ultrafuser.preflight").joinpath("licences.yaml").read_text(encoding="utf-8")
    table: dict[str, list[str]] = yaml.safe_load(text)
    return table


def family_of(name: str) -> str:
    """The family that a licence identifier belongs to; "unknown" when the table does not have it."""
    plain = name.strip().lower().replace("_", "-")
    for family, names in families().items():
        if plain in names:
            return family
    if re.match(r"(meta-)?llama|gemma|.*openrail|.*-rail|other( |$)", plain):
        return "restricted"
    return "unknown"


def read_licence(folder: Path) -> Licence:
    """Licence from the model card's front matter, the configuration, or the words of a LICENSE file."""
    card = front_matter(folder / "README.md")
    ids = _names(card.get("license"))
    if ids == ["other"] and isinstance(card.get("license_name"), str):
        ids = [card["license_name"]]
        if family_of(ids[0]) == "unknown":
            ids = [f"other ({ids[0]})"]
    if ids:
        return Licence(tuple(ids), "README.md")
    for file in ("LICENSE", "LICENSE.txt", "LICENSE.md", "LICENCE", "LICENCE.txt"):
        path = folder / file
        if path.is_file():
            head = path.read_text(encoding="utf-8", errors="replace")[:1500]
            for words, name in _TEXTS:
                if words.lower() in head.lower():
                    return Licence((name,), file)
            return Licence((), f"{file}, whose words are not recognised")
    return Licence((), "no README.md with a license, no LICENSE file")


def front_matter(card: Path) -> dict[str, Any]:
    """The YAML block at the top of a model card; empty when there is none or it cannot be read."""
    if not card.is_file():
        return {}
    text = card.read_text(encoding="utf-8", errors="replace")
    match = re.match(r"\ufeff?---\s*\n(.*?)\n---\s*(\n|$)", text, re.DOTALL)
    if match is None:
        return {}
    try:
        data = yaml.safe_load(match[1])
    except yaml.YAMLError:
        return {}
    return data if isinstance(data, dict) else {}


def _names(value: Any) -> list[str]:
    entries = value if isinstance(value, list) else [value]
    return [entry for entry in entries if isinstance(entry, str) and entry]


def check_licences(licences: dict[str, Licence], report: Report) -> None:
    """Notes what follows from fusing the parts: conflicts, duties, and a summary in `report.licence`."""
    before = len(report.warnings)
    for name, licence in licences.items():
        _own_terms(name, licence, report)
    _share_alike(licences, report)
    families = {family for licence in licences.values() for family in licence.families}
    strictest = next((family for family in STRICT_FIRST if family in families), "permissive")
    clean = len(report.warnings) == before
    if clean:
        terms = ", ".join(dict.fromkeys(entry for licence in licences.values() for entry in licence.ids))
        report.add("ok", "specialists", f"licences can be combined: {terms}; the strictest kind is {strictest}")
    report.licence = {
        "parts": {
            name: {"ids": list(part.ids), "families": part.families, "from": part.origin}
            for name, part in licences.items()
        },
        "strictest": strictest,
        "combinable": clean,
    }


def _own_terms(name: str, licence: Licence, report: Report) -> None:
    """What one part's licence asks by itself."""
    where = f"specialists.{name}"
    terms = ", ".join(licence.ids)
    if not licence.ids:
        report.add(
            "warning", where, f"licence unknown ({licence.origin})", "find out before you pass the fused model on"
        )
    for entry in licence.ids:
        if entry.startswith("other"):
            report.add("ok", where, f"licence {entry}: its own terms; read them before you pass the fused model on")
        elif family_of(entry) == "unknown":
            report.add(
                "warning", where, f"licence {entry!r} is not in the table", "read it before you pass the model on"
            )
        for start, duty in NOTES.items():
            if entry.lower().startswith(start):
                report.add("ok", where, f"licence {entry}: if you pass the fused model on, {duty}")
    if "no-derivatives" in licence.families:
        report.add("warning", where, f"licence {terms} forbids passing on changed versions", GATE_ONLY)
    if "non-commercial" in licence.families:
        report.add(
            "warning",
            where,
            f"licence {terms} forbids commercial use, and so of the fused model too",
            "replace this specialist where that matters",
        )


def _share_alike(licences: dict[str, Licence], report: Report) -> None:
    """Licences that want the whole under their own terms, against parts that do not allow it."""
    share = [(name, entry) for name, part in licences.items() for entry in part.ids if _is_share_alike(entry)]
    for name, entry in share:
        against = [
            f"{other} ({', '.join(part.ids)})"
            for other, part in licences.items()
            if other != name and _forbids(part.families, entry)
        ]
        if against:
            report.add(
                "warning",
                f"specialists.{name}",
                f"licence {entry} wants the whole under its own terms, which {', '.join(against)} does not allow",
                GATE_ONLY,
            )
    kinds = sorted({entry for _, entry in share})
    if len(kinds) > 1 and not any(set(kinds) <= chain for chain in ONE_WAY):
        what = f"the share-alike licences {' and '.join(kinds)} cannot both govern one model"
        report.add("warning", "specialists", what, GATE_ONLY)


def _is_share_alike(entry: str) -> bool:
    return family_of(entry) == "share-alike" or "-nc-sa" in entry


def _forbids(families: list[str], share_alike: str) -> bool:
    """Whether a part of these families cannot come under the share-alike licence."""
    if {"restricted", "no-derivatives"} & set(families):
        return True
    return "non-commercial" in families and "-nc-" not in share_alike
