"""Data preparation of the zoo on made-up records: hold-out, overlap, readers, allowed sources."""

import random
from collections import Counter
from pathlib import Path

import pytest

from tests.zoo.made_up import make_data, sentence
from ultrafuser.data.decontamination import OverlapIndex
from ultrafuser.zoo.overlap import benchmark_index
from ultrafuser.zoo.prepare import Sizes, draw_documents, prepare, read_pieces, without_overlap
from ultrafuser.zoo.sources import SOURCES, Piece, records

SIZES = Sizes(heldout=8, validation=5, raw_validation=2)


def piece(document: str, text: str) -> Piece:
    return Piece(
        "text", "dolly", document, [{"role": "user", "content": text}, {"role": "assistant", "content": "Yes."}]
    )


def test_whole_documents_are_drawn() -> None:
    pieces = [piece(f"d{i % 10}", f"question {i}") for i in range(40)]
    drawn, rest = draw_documents(pieces, 40, "seed")
    assert {p.document for p in drawn}.isdisjoint({p.document for p in rest})
    drawn_again, _ = draw_documents(list(pieces), 40, "seed")
    assert drawn == drawn_again


def test_overlapping_pieces_are_removed_and_counted() -> None:
    shared = "one two three four five six seven eight nine ten eleven twelve thirteen"
    index = OverlapIndex([f"before {shared} after"])
    removed: Counter[str] = Counter()
    kept = without_overlap([piece("a", f"Now {shared}."), piece("b", shared.rsplit(" ", 1)[0])], index, removed)
    assert [p.document for p in kept] == ["b"]
    assert removed == {"dolly": 1}
    assert not OverlapIndex([]).hits(shared)


def test_gsm8k_marks_are_stripped_and_an_answer_line_added() -> None:
    source = SOURCES["gsm8k_train"]
    record = {"id": "1", "question": "Q?", "solution": "2+2=<<2+2=4>>4 pens\n#### 4", "answer": "4"}
    made = source.read(source, record)
    assert made is not None
    assert made.messages[-1]["content"] == "2+2=4 pens\nThe answer is 4."


def test_standard_library_functions_are_refused() -> None:
    source = SOURCES["py_docstrings"]
    record = {"package": "cpython-stdlib", "name": "f", "instruction": "Do.", "output": "def f(): pass"}
    assert source.read(source, record) is None
    assert source.read(source, {**record, "package": "toolz"}) is not None


def test_forbidden_files_are_not_among_the_sources() -> None:
    for source in SOURCES.values():
        assert not any(word in source.file for word in ("code_alpaca", "math_train", "mawps", "bench"))


def test_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="nowhere"):
        list(records(tmp_path / "nowhere.jsonl"))


def test_prepare_holds_out_documents_and_removes_overlap(tmp_path: Path) -> None:
    data = make_data(tmp_path / "data")
    bench_text = "A benchmark question of our own. " + sentence(random.Random(9), 20)
    # A training record that copies a benchmark question: it must go.
    import gzip
    import json

    with gzip.open(data / "train/text/dolly.jsonl.gz", "at", encoding="utf-8") as out:
        out.write(json.dumps({"instruction": bench_text, "input": "", "output": "copied"}) + "\n")
    report = prepare(data, tmp_path / "out", SIZES, seed=3)
    assert report["removed"]["bench"] == {"dolly": 1}
    for domain in ("text", "code", "math"):
        held = read_pieces(tmp_path / "out" / f"{domain}-heldout.jsonl")
        train = read_pieces(tmp_path / "out" / f"{domain}-train.jsonl")
        assert len(held) >= SIZES.heldout
        assert {p.document for p in held}.isdisjoint({p.document for p in train})
        index = OverlapIndex(text for p in held for text in p.texts())
        assert not any(index.hits(text) for p in train for text in p.texts())
    assert benchmark_index(data / "bench").hits(bench_text)
