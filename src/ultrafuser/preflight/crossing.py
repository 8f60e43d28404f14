"""Specialists with other tokenizers: how much they share with the canonical one, and at how many positions of the
answers in the data they can be fused. Compared as byte strings, never by the look of a token."""

from collections.abc import Mapping, Sequence

from ultrafuser.preflight.facts import Facts
from ultrafuser.preflight.findings import Report
from ultrafuser.tokens import Alignment, TokenTable

LEAST_SHARE = 0.5  # of the positions in the data; below it most of a specialist's knowledge is never used


def apart(facts: Sequence[Facts], canonical: str) -> list[Facts]:
    """The specialists whose tokenizer gives another token to an id that the canonical one has too."""
    (first,) = [one for one in facts if one.name == canonical]
    reference = first.tokenizer.get_vocab()
    by_id = {i: token for token, i in reference.items()}
    found = []
    for one in facts:
        own = one.tokenizer.get_vocab()
        if any(by_id.get(i, token) != token for token, i in own.items()):
            found.append(one)
    return found


def check_overlap(others: Sequence[Facts], first: Facts, report: Report) -> Alignment | None:
    """Notes how much of the canonical vocabulary each of the `others` shares; None where nothing can be fused."""
    if not others:
        return None
    names = [first.name, *(one.name for one in others)]
    try:
        tables = [
            TokenTable(one.tokenizer, one.vocab_rows, eos=one.config_eos, field=f"specialists.{one.name}.source")
            for one in (first, *others)
        ]
        alignment = Alignment(tables, names)
    except ValueError as error:
        field, _, message = str(error).partition(": ")
        report.add("error", field, message)
        return None
    for name, overlap in zip(names[1:], alignment.overlap[1:], strict=True):
        report.specialists[name]["overlap"] = round(overlap, 4)
        what = f"{overlap:.1%} of {first.name}'s tokens are tokens of its own tokenizer too, compared byte by byte"
        report.add("ok", f"specialists.{name}.source", what)
    try:
        alignment.check_overlap(names)
    except ValueError as error:
        field, _, message = str(error).partition(": ")
        report.add("error", field, message)
    return alignment


def check_positions(
    alignment: Alignment, names: Sequence[str], answers: Mapping[str, Sequence[str]], report: Report
) -> None:
    """Notes at what share of the tokens of some answers, by domain, each specialist can speak; the canonical first."""
    for j, name in enumerate(names[1:], start=1):
        shares = {category: _share(alignment, j, texts) for category, texts in answers.items() if texts}
        if not shares:
            continue
        report.specialists[name]["fused_positions"] = {category: round(share, 4) for category, share in shares.items()}
        shown = ", ".join(f"{category} {share:.1%}" for category, share in shares.items())
        what = f"can be fused at these shares of the answers' tokens: {shown}"
        where = f"specialists.{name}.source"
        if min(shares.values()) < LEAST_SHARE:
            report.add("warning", where, what, "its tokenizer cuts these texts too differently to help there")
        else:
            report.add("ok", where, what)


def _share(alignment: Alignment, j: int, texts: Sequence[str]) -> float:
    """Share of the canonical tokens, end of sequence included, that begin where a token of specialist j begins."""
    first, other = alignment.tables[0], alignment.tables[j]
    fused = total = 0
    for text in texts:
        data = text.encode("utf-8", "surrogatepass")
        starts = {0, *other.boundaries(other.encode(data))}
        own: list[int] = [0, *first.boundaries(first.encode(data))]  # the last begins the end of sequence
        fused += sum(start in starts for start in own)
        total += len(own)
    return fused / total
