"""Records from folders, from the shipped samples, from the Hub (made up here); what is wrong is said with its place."""

import gzip
import hashlib
import json
import os
from dataclasses import replace
from pathlib import Path

import pytest

from ultrafuser.evaluation.benchmark import Source
from ultrafuser.evaluation.benchmarks import BENCHMARKS
from ultrafuser.evaluation.data import HubPlace, load_domains, load_records

SHARED = Path(os.environ.get("ULTRAFUSER_SHARED_DATA") or Path(__file__).resolve().parents[2] / "../shared/data")
SOURCE = Source(
    "sums",
    ("id", "question"),
    hub_id="someone/sums",
    hub_config="main",
    adapt=lambda record: {"id": record["idx"], "question": record["q"]},
)
ROWS = [{"id": "1", "question": "1 + 1?"}, {"id": "2", "question": "é"}]


def lines(rows):
    return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "bench").mkdir()
    (tmp_path / "bench" / "sums.jsonl").write_text(lines(ROWS) + "\n", encoding="utf-8")
    return tmp_path / "bench"


def test_a_folder_plain_and_gzipped(folder, tmp_path):
    loaded = load_records(SOURCE, folder)
    assert loaded.records == ROWS
    content = (folder / "sums.jsonl").read_bytes()
    assert loaded.origin == {
        "from": "file",
        "path": str(folder / "sums.jsonl"),
        "sha256": hashlib.sha256(content).hexdigest(),
        "records": 2,
    }
    (folder / "sums.jsonl").unlink()
    (folder / "sums.jsonl.gz").write_bytes(gzip.compress(content))
    assert load_records(SOURCE, str(folder)).records == ROWS


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ('{"id": "1", "question": "x"}\n{"id": 2}\n', r"line 2: field 'question' is missing; it has id, and needs id,"),
        ('{"id": "1", "question": "x"}\n\n{oops\n', r"line 3: not valid JSON .*write one object per line"),
        ("[1, 2]\n", r"line 1: a list; write an object with the fields id, question"),
        ("\n", r"holds no record"),
    ],
)
def test_bad_lines_are_named(folder, content, message):
    (folder / "sums.jsonl").write_text(content)
    with pytest.raises(ValueError, match=r"sums.jsonl.*" + message):
        load_records(SOURCE, folder)


def test_files_that_cannot_be_read_are_named(folder):
    (folder / "sums.jsonl").write_bytes(b'{"id": "\xff"}\n')
    with pytest.raises(ValueError, match=r"sums.jsonl, after line 0: cannot be read"):
        load_records(SOURCE, folder)
    (folder / "sums.jsonl").unlink()
    (folder / "sums.jsonl.gz").write_bytes(gzip.compress(lines(ROWS).encode())[:-6])
    with pytest.raises(ValueError, match=r"sums.jsonl.gz, after line \d: cannot be read"):
        load_records(SOURCE, folder)


def test_folders_without_the_file(folder, tmp_path):
    with pytest.raises(ValueError, match=rf"has neither sums.jsonl nor sums.jsonl.gz; did you mean --data {folder}\?"):
        load_records(SOURCE, tmp_path)
    with pytest.raises(ValueError, match=r"has neither other.jsonl .* its data files are: sums.jsonl"):
        load_records(Source("other", ()), folder)
    with pytest.raises(ValueError, match="does not exist"):
        load_records(SOURCE, tmp_path / "nowhere")
    with pytest.raises(ValueError, match="is a file, not a folder"):
        load_records(SOURCE, folder / "sums.jsonl")
    with pytest.raises(ValueError, match="other has no place on the Hub; give a folder"):
        load_records(Source("other", ()), None)


@pytest.mark.parametrize(
    ("text", "place"),
    [
        ("me/sums@abc", HubPlace("me/sums", "abc", None, "test")),
        ("someone/sums", HubPlace("someone/sums", "main", "main", "test")),
        ("@v1.0", HubPlace("someone/sums", "v1.0", "main", "test")),
        ("me/sums:dev", HubPlace("me/sums", "main", None, "dev")),
        ("me/sums:easy:dev@v2", HubPlace("me/sums", "v2", "easy", "dev")),
    ],
)
def test_places_on_the_hub(text, place):
    assert HubPlace.parse(text, SOURCE) == place


@pytest.mark.parametrize("text", ["a/b/c", "a/b@", "a/b:c:d:e", "a/b::d"])
def test_places_that_are_none(text):
    with pytest.raises(ValueError, match=r"--hub: .* must read ID, ID:SPLIT or ID:CONFIG:SPLIT"):
        HubPlace.parse(text, SOURCE)


@pytest.fixture
def hub(monkeypatch):
    """A Hub that has one data set; holds what was asked of it."""
    import datasets
    import huggingface_hub

    asked = []

    def load_dataset(name, config=None, *, split, revision):
        asked.append((name, config, split, revision))
        if name != "someone/sums":
            raise RuntimeError(f"no such data set: {name}\nand much more")
        return [{"idx": row["id"], "q": row["question"]} for row in ROWS]

    class Info:
        sha = "c" * 40

    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    monkeypatch.setattr(huggingface_hub.HfApi, "dataset_info", lambda self, name, revision: Info)
    return asked


def test_the_hub_by_id_and_commit(hub):
    loaded = load_records(SOURCE, None)
    assert loaded.records == ROWS
    assert hub == [("someone/sums", "main", "test", "c" * 40)]
    origin = loaded.origin
    assert (origin["id"], origin["commit"], origin["revision"]) == ("someone/sums", "c" * 40, "main")
    assert (origin["config"], origin["split"], origin["records"]) == ("main", "test", 2)
    assert len(origin["sha256"]) == 64
    pinned = load_records(SOURCE, "hub", hub=HubPlace("someone/sums", "a" * 40, "main"))
    assert hub[-1] == ("someone/sums", "main", "test", "a" * 40)
    assert pinned.origin["commit"] == "a" * 40
    assert pinned.origin["sha256"] == origin["sha256"]


def test_a_repository_that_does_not_load_by_name_is_read_by_its_file(monkeypatch, tmp_path):
    import datasets

    asked = []
    file = tmp_path / "sums.json"
    file.write_text(json.dumps([{"idx": row["id"], "q": row["question"]} for row in ROWS]))
    load = datasets.load_dataset

    def from_disk(kind, *, data_files, split):
        asked.append(data_files)
        return load(kind, data_files=str(file), split=split, cache_dir=str(tmp_path / "cache"))

    monkeypatch.setattr(datasets, "load_dataset", from_disk)
    source = replace(SOURCE, hub_file="sums.json")
    loaded = load_records(source, None, hub=HubPlace("someone/sums", "b" * 40))
    assert asked == [f"hf://datasets/someone/sums@{'b' * 40}/sums.json"]
    assert loaded.records == ROWS


def test_off_the_network_the_copy_kept_here_is_read(hub, monkeypatch):
    import huggingface_hub

    def unreachable(self, name, revision):
        raise ConnectionError("offline")

    monkeypatch.setattr(huggingface_hub.HfApi, "dataset_info", unreachable)
    loaded = load_records(SOURCE, "hub")
    assert hub[-1][-1] == "main"
    assert loaded.origin["commit"] is None
    assert len(loaded.origin["sha256"]) == 64


def test_what_the_hub_cannot_give_is_one_line(hub):
    with pytest.raises(ValueError, match=r"me/other \(test\) on the Hub, .*no such data set.*--data") as error:
        load_records(SOURCE, None, hub=HubPlace("me/other"))
    assert "\n" not in str(error.value)
    other = Source("sums", ("id",), hub_id="someone/sums", adapt=lambda record: {"id": record["number"]})
    with pytest.raises(ValueError, match=r"record 1: not in the form .*no field 'number'; fields: idx, q"):
        load_records(other, None)
    short = Source("sums", ("id", "answer"), hub_id="someone/sums", adapt=SOURCE.adapt)
    with pytest.raises(ValueError, match=r"record 1: field 'answer' is missing"):
        load_records(short, None)


def test_held_out_conversations_by_domain(tmp_path):
    talk = {"id": "a", "messages": [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello"}]}
    pair = {"instruction": "Add.", "input": "1 and 2", "output": "3"}
    (tmp_path / "loss").mkdir()
    (tmp_path / "loss" / "text.jsonl").write_text(lines([talk]))
    (tmp_path / "loss" / "math.jsonl").write_text(lines([pair, pair]))
    loaded = load_domains(None, tmp_path)
    assert [record["domain"] for record in loaded.records] == ["math", "math", "text"]
    assert loaded.records[2]["messages"] == talk["messages"]
    assert loaded.records[0]["messages"][0]["content"] == "Add.\n\n1 and 2"
    assert len({record["id"] for record in loaded.records}) == 3
    assert [one["records"] for one in loaded.origin["files"]] == [2, 1]
    named = load_domains({"text": tmp_path / "loss" / "text.jsonl"}, None)
    assert [record["id"] for record in named.records] == ["text/a"]
    assert named.origin["sha256"] != loaded.origin["sha256"]


def test_held_out_conversations_that_are_missing(tmp_path):
    for data, message in (
        (tmp_path, "loss does not exist"),
        (None, "hub has no held-out"),
        ("sample", "sample has no"),
    ):
        with pytest.raises(ValueError, match=f"{message}.*--loss-data DOMAIN=FILE"):
            load_domains(None, data)
    with pytest.raises(ValueError, match=r"held-out loss, data.text: .*nowhere.jsonl does not exist"):
        load_domains({"text": tmp_path / "nowhere.jsonl"}, None)


@pytest.mark.skipif(not SHARED.is_dir(), reason="no shared data here")
@pytest.mark.parametrize("name", [name for name, row in BENCHMARKS.items() if row.source.file != "loss"])
def test_the_shared_files_are_in_the_form_that_the_table_says(name):
    loaded = load_records(BENCHMARKS[name].source, SHARED / "bench")
    items = BENCHMARKS[name].items(loaded.records)
    assert 0 < len(items) <= len(loaded.records)
    assert len({item.id for item in items}) == len(items)
