"""Whether an answer to a DNA task is right: the one right answer, or what the answer means where there are many."""

import re
from typing import Any

from ultrafuser.zoo.dna.biology import CODE, amino_acids, reverse_complement, spaced

_STRAND = re.compile(r"[ACGT]{3}(?: [ACGT]{3})*")
_HAIRPIN = re.compile(rf"Loop ([ACGT]{{3}}), back ({_STRAND.pattern})\. Strand: ({_STRAND.pattern})\.")


def is_right(record: dict[str, Any], answer: str) -> bool:
    """Whether `answer` (without its end token) answers the record of `dna.make`."""
    task, strand = record["task"], record["strand"]
    if task == "gene_for":
        return _codes_for(answer, amino_acids(strand))
    if task == "hairpin":
        return _folds(answer, strand)
    return answer == record["messages"][-1]["content"]


def _codes_for(answer: str, protein: str) -> bool:
    """Whether the answer is codons that mean the protein with its stop."""
    return bool(_STRAND.fullmatch(answer)) and "".join(CODE[codon] for codon in answer.split()) == protein


def _folds(answer: str, stem: str) -> bool:
    """Whether the answer names a loop, the stem's reverse complement, and the three in a row."""
    found = _HAIRPIN.fullmatch(answer)
    if found is None:
        return False
    loop, back, whole = found.groups()
    return back == spaced(reverse_complement(stem)) and whole == f"{spaced(stem)} {loop} {back}"
