"""The DNA conversations: answers held against a second way to work them out, nothing twice, the same every time."""

import re
from collections import Counter

import pytest

from ultrafuser.data.conversations import conversation_from_record
from ultrafuser.data.decontamination import decontaminate
from ultrafuser.zoo import dna, sample
from ultrafuser.zoo.dna.judging import is_right
from ultrafuser.zoo.settings import ExtraSettings

COUNTS = {"heldout": 150, "validation": 60, "train": 1500}
# The genetic code by amino acid, written out from a printed table: U for T, three-letter names.
TABLE = """
Phe F UUU UUC; Leu L UUA UUG CUU CUC CUA CUG; Ile I AUU AUC AUA; Met M AUG; Val V GUU GUC GUA GUG;
Ser S UCU UCC UCA UCG AGU AGC; Pro P CCU CCC CCA CCG; Thr T ACU ACC ACA ACG; Ala A GCU GCC GCA GCG;
Tyr Y UAU UAC; His H CAU CAC; Gln Q CAA CAG; Asn N AAU AAC; Lys K AAA AAG; Asp D GAU GAC; Glu E GAA GAG;
Cys C UGU UGC; Trp W UGG; Arg R CGU CGC CGA CGG AGA AGG; Gly G GGU GGC GGA GGG; stop stop UAA UAG UGA
"""
ROWS = [row.split() for row in TABLE.replace("\n", " ").split(";")]
LETTER = {codon: row[1] for row in ROWS for codon in row[2:]}
NAME = {codon: row[0] for row in ROWS for codon in row[2:]}
PARTNER = {"A": "T", "T": "A", "C": "G", "G": "C"}
SITES = {"EcoRI": "GAATTC", "BamHI": "GGATCC", "HindIII": "AAGCTT", "EcoRV": "GATATC", "PstI": "CTGCAG",
         "SmaI": "CCCGGG", "XhoI": "CTCGAG", "SalI": "GTCGAC"}  # fmt: skip


@pytest.fixture(scope="module")
def drawn() -> dict:
    return dna.make(COUNTS, seed=3)


def strands(text: str) -> list[list[str]]:
    """Every run of codons in a text, as lists of codons."""
    return [run.split() for run in re.findall(r"\b[ACGTU]{3}(?: [ACGTU]{3})*\b", text)]


def rna(codon: str) -> str:
    return codon.replace("T", "U")


def turned(parts: list[str]) -> list[str]:
    """The other strand from its own 5' end, base by base from the back."""
    bases = "".join(parts)
    other = [PARTNER[bases[i]] for i in range(len(bases) - 1, -1, -1)]
    return ["".join(other[i : i + 3]) for i in range(0, len(other), 3)]


def expected(task: str, prompt: str, answer: str) -> str:
    """The right answer, worked out from the prompt alone; where there are many, from the answer's own free choice."""
    given = strands(prompt)
    first = given[0] if given else []
    if task == "complement":
        return " ".join("".join(PARTNER[base] for base in codon) for codon in first)
    if task == "reverse_complement":
        paired = " ".join("".join(PARTNER[base] for base in codon) for codon in first)
        return f"Paired: {paired}. Read backwards: {' '.join(turned(first))}."
    if task == "to_rna":
        return " ".join(map(rna, first))
    if task == "to_dna":
        return " ".join(codon.replace("U", "T") for codon in first)
    if task in ("protein", "protein_of_rna"):
        steps = ", ".join(f"{codon} {LETTER[rna(codon)]}" for codon in first)
        return f"{steps}. Protein: {' '.join(LETTER[rna(codon)] for codon in first[:-1])}."
    if task == "residue_names":
        return " ".join(NAME[rna(codon)] for codon in first[:-1])
    if task == "gene_for":
        protein = re.findall(r"\b[A-Z](?: [A-Z])+\b", prompt)[0].split()
        assert [LETTER[rna(codon)] for codon in answer.split()] == [*protein, "stop"]
        return answer
    if task in ("gc", "count"):
        wanted = "GC" if task == "gc" else re.search(r"\b[ACGT]\b", prompt)[0]  # type: ignore[index]
        totals = [sum(base in wanted for base in "".join(first[: i + 1])) for i in range(len(first))]
        steps = ", ".join(f"{codon} {total}" for codon, total in zip(first, totals, strict=True))
        return f"{steps}. {'G or C' if task == 'gc' else wanted}: {totals[-1]} of {3 * len(first)}."
    if task == "codons":
        steps = ", ".join(f"{i + 1} {codon}" for i, codon in enumerate(first))
        return f"{steps}. {len(first)} codons, {3 * len(first)} bases."
    if task == "open_frame":
        start = first.index("ATG")
        stop = min(i for i, codon in enumerate(first) if i > start and codon in ("TAA", "TAG", "TGA"))
        gene = first[start : stop + 1]
        letters = " ".join(LETTER[rna(codon)] for codon in gene[:-1])
        return f"Start at codon {start + 1}, stop at codon {stop + 1}: {' '.join(gene)}. Protein: {letters}."
    if task == "mutation":
        (place,) = [i for i, pair in enumerate(zip(*given, strict=True)) if pair[0] != pair[1]]
        old, new = given[0][place], given[1][place]
        was, becomes = LETTER[rna(old)], LETTER[rna(new)]
        kind = {True: "silent", False: "nonsense" if becomes == "stop" else "missense"}[was == becomes]
        return f"Codon {place + 1}: {old} to {new}, {was} to {becomes}. The change is {kind}."
    if task == "cutting_site":
        enzyme = next(name for name in SITES if name in prompt)
        site, place = SITES[enzyme], "".join(first).find(SITES[enzyme])
        found = f"found at codons {place // 3 + 1} and {place // 3 + 2}" if place >= 0 else "not found, no cut"
        assert place < 0 or place % 3 == 0
        return f"{enzyme} cuts at {site[:3]} {site[3:]}: {found}."
    assert task == "hairpin"
    loop = re.match(r"Loop ([ACGT]{3}),", answer)[1]  # type: ignore[index]
    back = turned(first)
    return f"Loop {loop}, back {' '.join(back)}. Strand: {' '.join([*first, loop, *back])}."


@pytest.mark.parametrize("task", list(dna.TASKS))
def test_answers_are_right_by_another_way(task: str, drawn: dict) -> None:
    records = [record for split in drawn.values() for record in split if record["task"] == task]
    assert len(records) > 80
    for record in records:
        prompt, answer = (message["content"] for message in record["messages"])
        assert answer == expected(task, prompt, answer), prompt
        assert is_right(record, answer)
        assert not is_right(record, answer.replace("C", "G", 1) + "G")


def test_free_tasks_take_other_right_answers() -> None:
    gene = {"task": "gene_for", "strand": "ATGTTTTAA", "messages": [{"content": "ATG TTT TAA"}]}
    assert is_right(gene, "ATG TTC TGA")
    assert not is_right(gene, "ATG TTA TGA")
    folds = {"task": "hairpin", "strand": "AAACCC", "messages": [{"content": ""}]}
    assert is_right(folds, "Loop TTT, back GGG TTT. Strand: AAA CCC TTT GGG TTT.")
    assert not is_right(folds, "Loop TTT, back GGG TTA. Strand: AAA CCC TTT GGG TTA.")


def test_nothing_occurs_twice(drawn: dict) -> None:
    records = [record for split in drawn.values() for record in split]
    assert {split: len(found) for split, found in drawn.items()} == COUNTS
    for field in ("id", "strand"):
        assert max(Counter(record[field] for record in records).values()) == 1
    assert max(Counter(record["messages"][0]["content"] for record in records).values()) == 1
    read = {name: [conversation_from_record(r, "dna", "") for r in found] for name, found in drawn.items()}
    assert decontaminate(read["train"], read["heldout"] + read["validation"]).removed == []


def test_every_wording_is_drawn_and_tasks_are_even(drawn: dict) -> None:
    tasks = Counter(record["task"] for record in drawn["train"])
    assert set(tasks.values()) == {100}
    heads = {record["messages"][0]["content"].split("{")[0][:6] for record in drawn["train"]}
    wordings = [wording for task in dna.TASKS.values() for wording in task.wordings]
    assert len(set(wordings)) == len(wordings) > 70
    assert all(w.startswith("{") or w[:6] in heads for w in wordings if "{" not in w[:6])


def test_a_seed_draws_the_same_and_another_does_not(drawn: dict) -> None:
    assert dna.make(COUNTS, seed=3) == drawn
    assert dna.make({"heldout": 15}, seed=4)["heldout"] != drawn["heldout"][:15]
    with pytest.raises(ValueError, match="unknown split 'test'; choose from heldout, validation, train"):
        dna.make({"test": 1}, seed=3)


def test_the_sample_is_what_the_specialist_was_never_trained_on() -> None:
    settings = ExtraSettings()
    made = dna.make(settings.counts | {"train": 0}, settings.seed)
    assert sample.load("dna", "heldout") == made["heldout"][:60]
    assert sample.load("dna", "train") == made["validation"][:165]
