"""The remembered hash: computed once, and again when a weight file changes."""

import os
from pathlib import Path

import pytest

from ultrafuser import hashing
from ultrafuser.hashing import content_hash, remembered_hash


def test_a_hash_is_computed_again_only_when_a_file_changes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ULTRAFUSER_CACHE", str(tmp_path / "cache"))
    model = tmp_path / "model.gguf"
    model.write_bytes(b"one")
    first = remembered_hash(model)
    assert first == content_hash(model)
    monkeypatch.setattr(hashing, "content_hash", lambda folder: pytest.fail("read again"))
    assert remembered_hash(model) == first
    monkeypatch.undo()
    monkeypatch.setenv("ULTRAFUSER_CACHE", str(tmp_path / "cache"))
    model.write_bytes(b"two")
    os.utime(model, ns=(1, 1))
    assert remembered_hash(model) == content_hash(model) != first


def test_a_torn_note_or_a_closed_cache_costs_time_only(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = tmp_path / "model.gguf"
    model.write_bytes(b"one")
    monkeypatch.setenv("ULTRAFUSER_CACHE", str(tmp_path / "cache"))
    first = remembered_hash(model)
    (note,) = (tmp_path / "cache" / "hashes").iterdir()
    note.write_text(first[:10])
    assert remembered_hash(model) == first
    monkeypatch.setenv("ULTRAFUSER_CACHE", str(model))  # a file: nothing can be written under it
    assert remembered_hash(model) == first


def test_long_work_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ULTRAFUSER_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(hashing, "LONG", 2)
    (tmp_path / "model.gguf").write_bytes(b"one")
    told: list[str] = []
    for _ in range(2):
        remembered_hash(tmp_path / "model.gguf", told.append)
    assert told == ["reading 0.0 GB of model.gguf once for its hash"]
