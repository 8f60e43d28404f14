"""What the DNA tasks rest on: base pairs, the genetic code, codons, open frames, cutting sites. Plain strings.

A strand is a string of A, C, G and T read from its 5' end; `codons` cuts it into threes. The code is the standard one
(NCBI translation table 1), `*` a stop.
"""

from itertools import product

BASES = "ACGT"
PAIRS = str.maketrans("ACGT", "TGCA")
STOP, START = "*", "ATG"
_ORDER = "TCAG"  # the order of the standard table
_AMINO_ACIDS = "FFLLSSSSYY**CC*WLLLLPPPPHHQQRRRRIIIMTTTTNNKKSSRRVVVVAAAADDEEGGGG"
CODE = {"".join(codon): acid for codon, acid in zip(product(_ORDER, repeat=3), _AMINO_ACIDS, strict=True)}
CODONS_OF = {acid: [codon for codon in sorted(CODE) if CODE[codon] == acid] for acid in sorted(set(_AMINO_ACIDS))}
SENSE = [codon for codon in sorted(CODE) if CODE[codon] != STOP]
STOPS = CODONS_OF[STOP]
NAMES = {
    "A": "Ala", "C": "Cys", "D": "Asp", "E": "Glu", "F": "Phe", "G": "Gly", "H": "His", "I": "Ile", "K": "Lys",
    "L": "Leu", "M": "Met", "N": "Asn", "P": "Pro", "Q": "Gln", "R": "Arg", "S": "Ser", "T": "Thr", "V": "Val",
    "W": "Trp", "Y": "Tyr",
}  # fmt: skip
SITES = {
    "EcoRI": "GAATTC", "BamHI": "GGATCC", "HindIII": "AAGCTT", "EcoRV": "GATATC", "PstI": "CTGCAG", "SmaI": "CCCGGG",
    "XhoI": "CTCGAG", "SalI": "GTCGAC",
}  # fmt: skip


def codons(strand: str) -> list[str]:
    """The strand in threes; ValueError where it does not divide."""
    if len(strand) % 3:
        raise ValueError(f"strand: {len(strand)} bases do not divide into codons; give a multiple of 3")
    return [strand[i : i + 3] for i in range(0, len(strand), 3)]


def spaced(strand: str) -> str:
    """The strand as the conversations write it: codons with spaces between."""
    return " ".join(codons(strand))


def complement(strand: str) -> str:
    """The base paired with each, in the same order (so read from the 3' end)."""
    return strand.translate(PAIRS)


def reverse_complement(strand: str) -> str:
    """The other strand, read from its own 5' end."""
    return complement(strand)[::-1]


def transcript(strand: str) -> str:
    """The messenger RNA of a coding strand: U for T."""
    return strand.replace("T", "U")


def amino_acids(strand: str) -> str:
    """One letter for each codon, `*` for a stop."""
    return "".join(CODE[codon] for codon in codons(strand))


def open_frame(strand: str) -> tuple[int, int] | None:
    """Codon numbers, from 1, of the first start in frame and of the first stop after it; None without both."""
    parts = codons(strand)
    if START not in parts:
        return None
    first = parts.index(START)
    last = next((i for i in range(first, len(parts)) if parts[i] in STOPS), None)
    return None if last is None else (first + 1, last + 1)
