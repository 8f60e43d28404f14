"""Reading the allowed sources, holding out whole documents, and removing overlap: the zoo's data, as text.

Training pieces that share a 13-gram with a benchmark or with a held-out example are removed and counted.
"""

import json
import random
from collections import Counter, defaultdict
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ultrafuser.data.decontamination import OverlapIndex
from ultrafuser.zoo.files import finished_folder
from ultrafuser.zoo.overlap import benchmark_index
from ultrafuser.zoo.sources import DOMAINS, SOURCES, Piece, Source

SPLITS = ("train", "validation", "heldout")


@dataclass(frozen=True)
class Sizes:
    """How much is set aside: examples per domain, and characters an example or a domain's raw text may have."""

    heldout: int = 200
    validation: int = 120
    raw_validation: int = 40
    max_example_characters: int = 2400
    raw_characters: int = 24_000_000


def read_instructions(data: Path, sources: Iterable[Source], sizes: Sizes, seed: int) -> list[Piece]:
    """Instruction pieces of all sources, each cut to its limit by a seeded draw, without repeats or long ones."""
    pieces: list[Piece] = []
    for source in sources:
        mine = [piece for piece in source.pieces(data) if sum(map(len, piece.texts())) <= sizes.max_example_characters]
        if source.limit is not None and len(mine) > source.limit:
            mine = random.Random(f"{seed}:{source.name}").sample(mine, source.limit)
        pieces += mine
    return list({tuple(piece.texts()): piece for piece in pieces}.values())


def draw_documents(pieces: list[Piece], count: int, seed: str) -> tuple[list[Piece], list[Piece]]:
    """Split pieces by whole documents: about `count` pieces of randomly drawn documents, and the rest."""
    by_document: dict[str, list[Piece]] = defaultdict(list)
    for piece in pieces:
        by_document[piece.document].append(piece)
    documents = sorted(by_document)
    random.Random(seed).shuffle(documents)
    drawn: list[Piece] = []
    chosen: set[str] = set()
    for document in documents:
        if len(drawn) >= count:
            break
        if len(by_document[document]) <= max(1, count // 10):
            drawn += by_document[document]
            chosen.add(document)
    return drawn, [piece for piece in pieces if piece.document not in chosen]


def draw_heldout(pieces: list[Piece], sizes: Sizes, seed: str) -> tuple[list[Piece], list[Piece]]:
    """Held-out pieces, whole documents from the sources marked for it, and the other pieces outside these documents."""
    heldout, _ = draw_documents([piece for piece in pieces if SOURCES[piece.source].held_out], sizes.heldout, seed)
    documents = {piece.document for piece in heldout}
    return heldout, [piece for piece in pieces if piece.document not in documents]


def without_overlap(pieces: Iterable[Piece], index: OverlapIndex, removed: Counter[str]) -> list[Piece]:
    """Pieces that share no n-gram with the index; the removed ones are counted by source."""
    kept: list[Piece] = []
    for piece in pieces:
        if any(map(index.hits, piece.texts())):
            removed[piece.source] += 1
        else:
            kept.append(piece)
    return kept


def read_raw(
    data: Path, domain: str, sizes: Sizes, seed: int, indexes: dict[str, OverlapIndex], removed: dict[str, Counter[str]]
) -> list[Piece]:
    """Raw pieces of a domain in a seeded order, without overlap, up to the character budget."""
    pieces = [
        piece for source in SOURCES.values() if source.raw and source.domain == domain for piece in source.pieces(data)
    ]
    random.Random(f"{seed}:raw:{domain}").shuffle(pieces)
    total, used = 0, []
    for piece in pieces:
        if total >= sizes.raw_characters:
            break
        hit = next((name for name, index in indexes.items() if index.hits(piece.text)), None)
        if hit:
            removed[hit][piece.source] += 1
            continue
        used.append(piece)
        total += len(piece.text)
    return used


def write_pieces(file: Path, pieces: Iterable[Piece]) -> None:
    """Pieces as JSON Lines."""
    with file.open("w", encoding="utf-8") as out:
        out.writelines(piece.to_json() + "\n" for piece in pieces)


def read_pieces(file: Path) -> list[Piece]:
    """Pieces of a file written by write_pieces."""
    with file.open(encoding="utf-8") as lines:
        return [Piece(**json.loads(line)) for line in lines]


def prepare(data: Path, out: Path, sizes: Sizes, seed: int) -> dict[str, Any]:
    """Write train, validation, held-out and raw pieces of every domain to `out`; returns what was kept and removed."""
    removed: dict[str, Counter[str]] = {"bench": Counter(), "heldout": Counter()}
    report: dict[str, Any] = {"examples": {}, "raw_pieces": {}}
    bench = benchmark_index(data / "bench")
    heldout, rest = {}, {}
    for domain in DOMAINS:
        sources = [source for source in SOURCES.values() if source.domain == domain and not source.raw]
        pieces = without_overlap(read_instructions(data, sources, sizes, seed), bench, removed["bench"])
        heldout[domain], rest[domain] = draw_heldout(pieces, sizes, f"{seed}:heldout:{domain}")
    own = OverlapIndex(text for domain in DOMAINS for piece in heldout[domain] for text in piece.texts())
    with finished_folder(out) as folder:
        for domain in DOMAINS:
            clean = without_overlap(rest[domain], own, removed["heldout"])
            validation, train = draw_documents(clean, sizes.validation, f"{seed}:validation:{domain}")
            splits = {"train": train, "validation": validation, "heldout": heldout[domain]}
            for split, pieces in splits.items():
                write_pieces(folder / f"{domain}-{split}.jsonl", pieces)
            report["examples"][domain] = {
                name: dict(Counter(p.source for p in split)) for name, split in splits.items()
            }
            raw = read_raw(data, domain, sizes, seed, {"bench": bench, "heldout": own}, removed)
            raw_validation, raw_train = draw_documents(raw, sizes.raw_validation, f"{seed}:raw-validation:{domain}")
            write_pieces(folder / f"{domain}-raw-train.jsonl", raw_train)
            write_pieces(folder / f"{domain}-raw-validation.jsonl", raw_validation)
            report["raw_pieces"][domain] = dict(Counter(piece.source for piece in raw_train))
        report["removed"] = {name: dict(counts) for name, counts in removed.items()}
        (folder / "report.json").write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")
    return report
