"""Importers: every format by records of our own, faults told by place, and a run over what was imported."""

import json

import pytest
from author import author

from ultrafuser.data import load_conversations
from ultrafuser.synthesis import Journal, open_domains
from ultrafuser.synthesis.export import rows
from ultrafuser.synthesis.importing import IMPORTERS, detect, import_instructions
from ultrafuser.synthesis.pipeline import Pipeline

ASK, TELL = "Name three uses of a sieve.", "Flour, sand and tea."
TURNS = [{"from": "human", "value": ASK}, {"from": "gpt", "value": TELL}]
SAID = [{"role": "user", "content": ASK}, {"role": "assistant", "content": TELL}]
RECORDS = {
    "evol-instruct": {"instruction": ASK, "output": TELL},
    "alpaca": {"instruction": ASK, "input": "", "output": TELL},
    "mathinstruct": {"source": "ours.json", "instruction": ASK, "output": TELL},
    "dolly": {"instruction": ASK, "context": "", "response": TELL, "category": "brainstorming"},
    "sharegpt": {"id": "s1", "conversations": TURNS},
    "ultrachat": {"id": "1", "data": [ASK, TELL, "And a fourth?", "Snow."]},
    "messages": {"id": "m", "messages": SAID, "meta": {}},
}
OTHERS = [("evol-instruct", {"idx": "e1", "conversations": TURNS}), ("ultrachat", {"prompt_id": "p", "messages": SAID})]


def lines(file, records):
    file.write_text("".join(json.dumps(record) + "\n" for record in records), encoding="utf-8")
    return file


def test_there_is_a_record_for_every_importer():
    assert set(RECORDS) == set(IMPORTERS)


@pytest.mark.parametrize(("name", "record"), [*RECORDS.items(), *OTHERS])
def test_every_format_is_told_apart_and_read(tmp_path, name, record):
    assert detect(record) == name
    file = lines(tmp_path / "some.jsonl", [record])
    assert load_conversations(file, "text")[0].messages[:2] == SAID
    with Journal(tmp_path / "out") as journal:
        assert import_instructions(journal, "text", name, file).added == 1
        assert import_instructions(journal, "text", "auto", file).known == 1
        (found,) = journal.records("instructions", "text")
    assert (found.data["text"], found.reason, found.parents) == (ASK, "imported from some.jsonl", ())


def test_context_belongs_to_the_instruction(tmp_path):
    file = lines(tmp_path / "d.jsonl", [RECORDS["dolly"] | {"context": "A sieve has holes."}])
    with Journal(tmp_path / "out") as journal:
        import_instructions(journal, "text", "dolly", file)
        assert next(journal.records("instructions")).data["text"] == f"{ASK}\n\nA sieve has holes."


def test_wrong_format_is_told_and_nothing_goes_in(tmp_path):
    file = lines(tmp_path / "mixed.jsonl", [RECORDS["sharegpt"], RECORDS["dolly"]])
    with Journal(tmp_path / "out") as journal:
        with pytest.raises(ValueError, match=r"mixed.jsonl, record 2: .*that is dolly, not sharegpt; --skip-faulty"):
            import_instructions(journal, "text", "sharegpt", file)
        assert not list(journal.records("instructions"))
        with pytest.raises(ValueError, match="FORMAT: 'shareGP'"):
            import_instructions(journal, "text", "shareGP", file)
        done = import_instructions(journal, "text", "sharegpt", file, skip_faulty=True)
        assert (done.added, done.faulty, len(done.faults)) == (1, 1, 1)
    with pytest.raises(ValueError, match="the record has the fields speech; formats are evol-instruct"):
        detect({"speech": "x"})


def test_records_that_cannot_be_read(tmp_path):
    late = {"conversations": TURNS[1:]}
    file = lines(tmp_path / "s.jsonl", [late, RECORDS["sharegpt"]])
    with Journal(tmp_path / "out") as journal:
        with pytest.raises(ValueError, match=r"s.jsonl, line 1: message 0 is an assistant answer"):
            import_instructions(journal, "text", "sharegpt", file)
        assert import_instructions(journal, "text", "sharegpt", file, skip_faulty=True).faulty == 1


def test_imported_ones_are_expanded_complicated_and_answered(serve, make_spec, tmp_path):
    counts = {"meta_topics": 0, "expansion": 0.5, "complicated": 0.3, "batch": 5}
    spec = make_spec(serve(author).url, domains=["text"], counts=counts)
    file = lines(tmp_path / "a.jsonl", [RECORDS["alpaca"] | {"instruction": f"Name use {i} of it."} for i in range(20)])
    with Journal(spec.output_folder) as journal:
        assert import_instructions(journal, "text", "alpaca", file, limit=10).added == 10
        assert Pipeline(spec, journal).run(review=False) is None
        first = list(rows(journal, "text"))
        assert len(list(journal.records("expansion", "text"))) == 5
        assert len(first) == 15
        assert {"instructions", "complication"} <= {row["meta"]["made_by"] for row in first}
        assert import_instructions(journal, "text", "alpaca", file).added == 10
        assert Pipeline(spec, journal).run(review=False) is None
        assert len(list(rows(journal, "text"))) == 30


def test_imported_ones_stand_beside_those_made(serve, make_spec, tmp_path):
    spec = make_spec(serve(author).url, domains=["text"])
    file = lines(tmp_path / "a.jsonl", [RECORDS["alpaca"]])
    with Journal(spec.output_folder) as journal:
        assert Pipeline(spec, journal).run(review=False) is None
        import_instructions(journal, open_domains(spec)[0].name, "alpaca", file)
        assert Pipeline(spec, journal).run(review=False) is None
        assert sum(1 for _ in journal.records("instructions", "text")) == 13
        changed = spec.model_copy(update={"seed": 1})
        assert Pipeline(changed, journal).run(review=False) is None
        assert ASK in [record.data["text"] for record in journal.records("instructions", "text")]
