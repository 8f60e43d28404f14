"""The table of DNA tasks: how each is drawn and the ways it is put to a model."""

from ultrafuser.zoo.dna import tasks
from ultrafuser.zoo.dna.tasks import Task

TASKS: dict[str, Task] = {
    "complement": Task(
        tasks.pair_up,
        (
            "What is the complement of {s}?",
            "Write the complementary bases of this strand: {s}",
            "Pair each base of {s} with its partner.",
            "Which bases stand opposite {s}?",
            "Complement this DNA, base by base: {s}",
            "Give the strand that pairs with {s}, in the same order.",
        ),
    ),
    "reverse_complement": Task(
        tasks.other_strand,
        (
            "What is the reverse complement of {s}?",
            "Read the other strand of {s} from its own 5' end.",
            "Reverse and complement this DNA: {s}",
            "Work out the reverse complement: {s}",
            "Which sequence does the opposite strand of {s} have, read 5' to 3'?",
            "I need the reverse complement of {s}, in two steps.",
        ),
    ),
    "to_rna": Task(
        tasks.to_rna,
        (
            "Transcribe {s} into messenger RNA.",
            "What is the mRNA of the coding strand {s}?",
            "Which RNA has the same sequence as {s}?",
            "Write this coding strand as RNA: {s}",
            "Turn the DNA {s} into its transcript.",
            "A polymerase copies {s}. What does the transcript read?",
        ),
    ),
    "to_dna": Task(
        tasks.to_dna,
        (
            "Which coding strand gives the mRNA {s}?",
            "Turn the RNA {s} back into DNA.",
            "Write this transcript as DNA: {s}",
            "The messenger reads {s}. What does the coding strand read?",
            "Reverse transcribe {s}, giving the coding strand.",
            "What DNA has the same sequence as the RNA {s}?",
        ),
    ),
    "protein": Task(
        tasks.protein_of,
        (
            "Translate the gene {s}.",
            "Which protein does {s} code for?",
            "Read this gene codon by codon: {s}",
            "What does a ribosome make of the coding strand {s}?",
            "Translate this DNA into amino acids: {s}",
            "Give the protein of {s}, with every step.",
        ),
    ),
    "protein_of_rna": Task(
        tasks.protein_of_rna,
        (
            "Translate the messenger {s}.",
            "Which protein is made from the mRNA {s}?",
            "Read this mRNA codon by codon: {s}",
            "A ribosome finds {s}. What does it make?",
            "Translate this RNA into amino acids: {s}",
            "Give the protein of the transcript {s}, with every step.",
        ),
    ),
    "residue_names": Task(
        tasks.residue_names,
        (
            "Name the amino acids of {s} by their three-letter names.",
            "Translate {s} with three-letter names.",
            "Which residues does the gene {s} code for? Use three letters each.",
            "List the residues of {s}, three letters each, without the stop.",
            "Write the protein of {s} in three-letter code.",
        ),
    ),
    "gene_for": Task(
        tasks.gene_for,
        (
            "Write a gene for the protein {s}.",
            "Design a coding strand for {s}.",
            "Which DNA could code for {s}? Give one, with a stop.",
            "Back-translate the protein {s}.",
            "Make up a gene that a ribosome would read as {s}.",
        ),
    ),
    "gc": Task(
        tasks.gc_count,
        (
            "How many bases of {s} are G or C?",
            "What is the GC content of {s}?",
            "Count G and C in this strand: {s}",
            "Give the GC count of {s} with a running total.",
            "How rich in G and C is {s}?",
        ),
    ),
    "count": Task(
        tasks.base_count,
        (
            "How often does {base} occur in {s}?",
            "Count the base {base} in this strand: {s}",
            "How many times is {base} found in {s}?",
            "Give the number of {base} in {s} with a running total.",
        ),
    ),
    "codons": Task(
        tasks.numbered,
        (
            "Number the codons of {s}.",
            "How many codons does {s} have?",
            "Cut this strand into codons and count them: {s}",
            "How long is {s}, in codons and in bases?",
            "List the codons of {s} with their numbers.",
        ),
    ),
    "open_frame": Task(
        tasks.find_frame,
        (
            "Find the open reading frame in {s}.",
            "Where does the reading frame of {s} open and close?",
            "Which part of {s} codes for a protein?",
            "Look for a start and a stop in this strand: {s}",
            "Locate the gene in {s} and translate it.",
        ),
    ),
    "mutation": Task(
        tasks.mutation,
        (
            "{s} became {t}. What kind of mutation is it?",
            "Compare {s} with {t}: which codon changed, and does it matter?",
            "A copy of {s} reads {t}. Name the mutation.",
            "Is the change from {s} to {t} silent, missense or nonsense?",
            "Which codon differs between {s} and {t}?",
        ),
    ),
    "cutting_site": Task(
        tasks.cutting_site,
        (
            "Does {enzyme} cut {s}?",
            "Find the site of {enzyme} in {s}.",
            "Where would {enzyme} cut this strand: {s}",
            "Is there a {enzyme} site in {s}?",
            "Look for the recognition site of {enzyme} in {s}.",
        ),
    ),
    "hairpin": Task(
        tasks.hairpin,
        (
            "Design a hairpin with the stem {s}.",
            "Let {s} fold back on itself.",
            "Make up a hairpin: the stem is {s}, the loop one codon.",
            "Close the stem {s} into a stem-loop.",
        ),
    ),
}
