"""The kinds of DNA task: each draws a question about a strand that nobody has seen, and works out the answer.

A task gives (strand, fields of its wordings, answer). Every wording of a task asks for the same answer, so what is said
is decided by the question, but for the tasks that ask for a sequence of one's own (`gene_for`, `hairpin`).
"""

import random
from collections.abc import Callable
from dataclasses import dataclass

from ultrafuser.zoo.dna.biology import (
    BASES,
    CODE,
    CODONS_OF,
    NAMES,
    SENSE,
    SITES,
    START,
    STOPS,
    amino_acids,
    codons,
    complement,
    open_frame,
    reverse_complement,
    spaced,
    transcript,
)

Drawn = tuple[str, dict[str, str], str]


@dataclass(frozen=True)
class Task:
    """How a kind of task draws its question, and the ways it is put."""

    draw: Callable[[random.Random], Drawn]
    wordings: tuple[str, ...]


def any_strand(draw: random.Random, low: int = 4, high: int = 9) -> str:
    """A strand of `low` to `high` random codons."""
    return "".join(draw.choice(BASES) for _ in range(3 * draw.randint(low, high)))


def any_gene(draw: random.Random, low: int = 3, high: int = 7) -> str:
    """A start, `low` to `high` random codons that are no stops, a stop."""
    return START + "".join(draw.choice(SENSE) for _ in range(draw.randint(low, high))) + draw.choice(STOPS)


def pair_up(draw: random.Random) -> Drawn:
    """The complement, base by base."""
    strand = any_strand(draw)
    return strand, {"s": spaced(strand)}, spaced(complement(strand))


def other_strand(draw: random.Random) -> Drawn:
    """The reverse complement, in two steps."""
    strand = any_strand(draw, 3, 7)
    worked = f"Paired: {spaced(complement(strand))}. Read backwards: {spaced(reverse_complement(strand))}."
    return strand, {"s": spaced(strand)}, worked


def to_rna(draw: random.Random) -> Drawn:
    """The transcript of a coding strand."""
    strand = any_strand(draw)
    return strand, {"s": spaced(strand)}, spaced(transcript(strand))


def to_dna(draw: random.Random) -> Drawn:
    """The coding strand of a transcript."""
    strand = any_strand(draw)
    return strand, {"s": spaced(transcript(strand))}, spaced(strand)


def _translated(strand: str, rna: bool) -> str:
    written = codons(transcript(strand) if rna else strand)
    letters = amino_acids(strand)[:-1]
    steps = [f"{codon} {letter}" for codon, letter in zip(written[:-1], letters, strict=True)]
    return f"{', '.join(steps)}, {written[-1]} stop. Protein: {' '.join(letters)}."


def protein_of(draw: random.Random) -> Drawn:
    """The protein of a gene, codon by codon."""
    strand = any_gene(draw)
    return strand, {"s": spaced(strand)}, _translated(strand, rna=False)


def protein_of_rna(draw: random.Random) -> Drawn:
    """The protein of a transcript, codon by codon."""
    strand = any_gene(draw)
    return strand, {"s": spaced(transcript(strand))}, _translated(strand, rna=True)


def residue_names(draw: random.Random) -> Drawn:
    """The protein of a gene in three-letter names."""
    strand = any_gene(draw)
    return strand, {"s": spaced(strand)}, " ".join(NAMES[letter] for letter in amino_acids(strand)[:-1])


def gene_for(draw: random.Random) -> Drawn:
    """A gene of one's own for a protein: any codon that means the amino acid."""
    protein = "M" + "".join(draw.choice(sorted(NAMES)) for _ in range(draw.randint(4, 8)))
    strand = "".join(draw.choice(CODONS_OF[letter]) for letter in protein) + draw.choice(STOPS)
    return strand, {"s": " ".join(protein)}, spaced(strand)


def _running(strand: str, wanted: str) -> tuple[str, int]:
    total, steps = 0, []
    for codon in codons(strand):
        total += sum(base in wanted for base in codon)
        steps.append(f"{codon} {total}")
    return ", ".join(steps), total


def gc_count(draw: random.Random) -> Drawn:
    """How many bases are G or C, with a running total."""
    strand = any_strand(draw)
    steps, total = _running(strand, "GC")
    return strand, {"s": spaced(strand)}, f"{steps}. G or C: {total} of {len(strand)}."


def base_count(draw: random.Random) -> Drawn:
    """How often one base occurs, with a running total."""
    strand, base = any_strand(draw), draw.choice(BASES)
    steps, total = _running(strand, base)
    return strand, {"s": spaced(strand), "base": base}, f"{steps}. {base}: {total} of {len(strand)}."


def numbered(draw: random.Random) -> Drawn:
    """The codons with their numbers, and how many there are."""
    strand = any_strand(draw)
    parts = codons(strand)
    steps = ", ".join(f"{number} {codon}" for number, codon in enumerate(parts, 1))
    return strand, {"s": spaced(strand)}, f"{steps}. {len(parts)} codons, {len(strand)} bases."


def find_frame(draw: random.Random) -> Drawn:
    """Where a reading frame opens and closes, and what it codes for."""
    before = "".join(draw.choice([c for c in SENSE if c != START]) for _ in range(draw.randint(1, 3)))
    after = "".join(draw.choice(sorted(CODE)) for _ in range(draw.randint(1, 2)))
    gene = any_gene(draw, 2, 4)
    strand = before + gene + after
    found = open_frame(strand)
    assert found is not None
    first, last = found
    answer = (
        f"Start at codon {first}, stop at codon {last}: {spaced(gene)}. Protein: {' '.join(amino_acids(gene)[:-1])}."
    )
    return strand, {"s": spaced(strand)}, answer


def mutation(draw: random.Random) -> Drawn:
    """Which codon changed, and whether the protein notices."""
    strand = "".join(draw.choice(SENSE) for _ in range(draw.randint(4, 6)))
    place = draw.randrange(len(strand))
    changed = strand[:place] + draw.choice([base for base in BASES if base != strand[place]]) + strand[place + 1 :]
    number = place // 3
    old, new = codons(strand)[number], codons(changed)[number]
    was, becomes = CODE[old], CODE[new]
    kind = "silent" if was == becomes else "nonsense" if becomes == "*" else "missense"
    written = "stop" if becomes == "*" else becomes
    answer = f"Codon {number + 1}: {old} to {new}, {was} to {written}. The change is {kind}."
    return strand, {"s": spaced(strand), "t": spaced(changed)}, answer


def cutting_site(draw: random.Random) -> Drawn:
    """Whether an enzyme cuts, and where; a site, if any, lies in frame."""
    enzyme = draw.choice(sorted(SITES))
    site = SITES[enzyme]
    while True:
        parts = codons(any_strand(draw, 3, 7))
        place = draw.randrange(len(parts) + 1) if draw.random() < 0.6 else None
        strand = "".join(parts if place is None else [*parts[:place], site, *parts[place:]])
        if strand.count(site) == (place is not None):
            break
    found = "not found, no cut" if place is None else f"found at codons {place + 1} and {place + 2}"
    return strand, {"s": spaced(strand), "enzyme": enzyme}, f"{enzyme} cuts at {spaced(site)}: {found}."


def hairpin(draw: random.Random) -> Drawn:
    """A strand that folds back on itself: the given stem, a loop of one's own, the stem's reverse complement."""
    stem = any_strand(draw, 3, 5)
    loop, back = any_strand(draw, 1, 1), reverse_complement(stem)
    answer = f"Loop {loop}, back {spaced(back)}. Strand: {spaced(stem + loop + back)}."
    return stem, {"s": spaced(stem)}, answer
