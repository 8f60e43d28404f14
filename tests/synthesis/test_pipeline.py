"""The whole thread: from a spec through every step to conversations in a file."""

import json

from author import author

from ultrafuser.data import load_conversations
from ultrafuser.synthesis import Journal, open_domains
from ultrafuser.synthesis.export import export_jsonl
from ultrafuser.synthesis.pipeline import Pipeline
from ultrafuser.synthesis.steps import STEPS


def made(spec, file):
    """Runs a spec to its end; the rows of its export."""
    with Journal(spec.output_folder) as journal:
        assert Pipeline(spec, journal).run(review=False) is None
        export_jsonl(journal, open_domains(spec), file)
    return [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]


def test_every_step_makes_what_was_asked_for(serve, make_spec, tmp_path):
    server = serve(author)
    spec = make_spec(server.url, turns={"extra": 1, "share": 0.5})
    rows = made(spec, tmp_path / "data.jsonl")
    with Journal(spec.output_folder) as journal:
        made_by = {step: len(list(journal.records(step, "code"))) for step in STEPS}
        assert all(set(record.data) <= set(STEPS[s].makes) for s in STEPS for record in journal.records(s))
    assert made_by == {
        "meta_topics": 2, "sub_topics": 4, "instructions": 12, "expansion": 6, "complication": 5, "responses": 18,
        "further_turns": 18,
    }  # fmt: skip
    assert [row["category"] for row in rows] == ["text"] * 18 + ["code"] * 18 + ["math"] * 18
    assert sorted({len(row["messages"]) for row in rows}) == [2, 4]
    assert len({row["id"] for row in rows}) == 54
    assert len(load_conversations(tmp_path / "data.jsonl", "text")) == 54


def test_a_second_run_asks_nothing(serve, make_spec, tmp_path):
    server = serve(author)
    spec = make_spec(server.url)
    first = made(spec, tmp_path / "first.jsonl")
    asked = len(server.bodies)
    assert made(spec, tmp_path / "second.jsonl") == first
    assert len(server.bodies) == asked


def test_the_seed_decides_and_nothing_else(serve, make_spec, tmp_path):
    server = serve(author)
    files = []
    for number, (seed, concurrency) in enumerate([(0, 1), (0, 8), (1, 4)]):
        endpoint = {"base_url": server.url, "concurrency": concurrency}
        spec = make_spec(server.url, seed=seed, endpoints=[endpoint], output=str(tmp_path / str(number)))
        made(spec, tmp_path / f"{number}.jsonl")
        files.append((tmp_path / f"{number}.jsonl").read_bytes())
    assert files[0] == files[1] != files[2]
