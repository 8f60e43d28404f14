"""Files of every kind, folders, and errors that name file, line, field and fix."""

import gzip
import json

import pytest

from ultrafuser.data import load_conversations

RECORDS = [{"question": f"Q{i}", "answer": f"A{i}"} for i in range(3)]
LINES = "\n".join(map(json.dumps, RECORDS)) + "\n\n"


def write(file, form):
    if form == ".jsonl":
        file.write_text(LINES)
    elif form == ".jsonl.gz":
        with gzip.open(file, "wt") as out:
            out.write(LINES)
    elif form == ".json":
        file.write_text(json.dumps(RECORDS))
    elif form == ".json.gz":
        with gzip.open(file, "wt") as out:
            out.write(json.dumps({"data": RECORDS}))
    else:
        import pyarrow as pa
        import pyarrow.parquet as parquet

        parquet.write_table(pa.Table.from_pylist(RECORDS), file)
    return file


@pytest.mark.parametrize("form", [".jsonl", ".json", ".jsonl.gz", ".json.gz", ".parquet"])
def test_every_kind_of_file(tmp_path, form):
    found = load_conversations(write(tmp_path / f"maths{form}", form), "math")
    assert [c.messages[1]["content"] for c in found] == ["A0", "A1", "A2"]
    assert [c.id for c in found] == ["maths:1", "maths:2", "maths:3"]
    assert {c.category for c in found} == {"math"}


def test_json_file_of_json_lines_is_read_as_lines(tmp_path):
    (tmp_path / "a.json").write_text(LINES)
    assert len(load_conversations(tmp_path / "a.json", "math")) == 3


def test_folder_is_read_by_name_and_limit_cuts(tmp_path):
    write(tmp_path / "b.jsonl", ".jsonl")
    write(tmp_path / "a.json", ".json")
    (tmp_path / "README.md").write_text("not data")
    ids = [c.id for c in load_conversations(str(tmp_path), "math", limit=4)]
    assert ids == ["a:1", "a:2", "a:3", "b:1"]


@pytest.mark.parametrize(
    ("content", "name", "said"),
    [
        ('{"question": "Q", "answer": "A"}\n{"question": "Q"}\n', "a.jsonl", "a.jsonl, line 2: unknown format"),
        ('{"question": "Q", "answer": "A"}\n\n{broken\n', "a.jsonl", "a.jsonl, line 3: not valid JSON"),
        ('[{"question": "Q", "answer": "A"}, {"messages": []}]', "a.json", "a.json, record 2: no assistant answer"),
        ("", "a.jsonl", "holds no record"),
        ("[]", "a.json", "holds no record"),
        ("x", "a.txt", "is not one of .jsonl"),
        ("x", "a.jsonl.gz", "cannot be read"),
        ("x", "a.parquet", "cannot be read"),
    ],
)
def test_bad_files(tmp_path, content, name, said):
    (tmp_path / name).write_text(content)
    with pytest.raises(ValueError, match=r"^data\.text: ") as error:
        load_conversations(tmp_path / name, "text")
    assert said in str(error.value)


def test_missing_folder_is_said_at_once(tmp_path):
    with pytest.raises(ValueError, match=r"does not exist.*hub:owner/name"):
        load_conversations("no/such", "text")
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match="holds no file ending in"):
        load_conversations(tmp_path / "empty", "text")
    with pytest.raises(ValueError, match="no file is named"):
        load_conversations([], "text")
    with pytest.raises(ValueError, match=r"data\.text\.limit: 0"):
        load_conversations(tmp_path, "text", limit=0)


def test_hub_names(monkeypatch):
    import datasets

    asked = []

    def load_dataset(name, configuration, split):
        asked.append((name, configuration, split))
        return [{"question": "Q", "answer": "A", "input": None}]

    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    for source in ("hub:o/n", "hub:o/n:test", "hub:o/n:main:test"):
        assert load_conversations(source, "text")[0].id == "o/n:0"
    assert asked == [("o/n", None, "train"), ("o/n", None, "test"), ("o/n", "main", "test")]
    with pytest.raises(ValueError, match="must read hub:owner/name"):
        load_conversations("hub:name", "text")
