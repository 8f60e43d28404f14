"""Files whole or not at all; JSON without NaN; locks between processes."""

import json
import math
import os
import subprocess
import sys

import pytest

from ultrafuser.files import finite, locked, write_json, write_whole


def test_a_file_is_whole_or_the_old_one(tmp_path, monkeypatch):
    file = tmp_path / "new" / "a.txt"
    write_whole(file, "one\n")
    write_whole(file, "zwei \udc80 é\n")
    assert file.read_bytes() == "zwei \\udc80 é\n".encode()

    def full(*ignored):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space"):
        write_whole(file, b"three")
    assert file.read_text() == "zwei \\udc80 é\n"
    assert [path.name for path in file.parent.iterdir()] == ["a.txt"]


def test_a_folder_is_refused_and_a_pipe_written_to(tmp_path):
    with pytest.raises(ValueError, match="is a folder; name a file"):
        write_whole(tmp_path, "x")
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    reader = os.open(pipe, os.O_RDONLY | os.O_NONBLOCK)
    write_whole(pipe, "through")
    assert os.read(reader, 100) == b"through"
    os.close(reader)
    assert pipe.is_fifo()


def test_json_has_null_for_what_it_cannot_say(tmp_path):
    write_json(tmp_path / "a.json", {1: [math.nan, (math.inf, 0.5)], "é": None})
    assert json.loads((tmp_path / "a.json").read_text(encoding="utf-8")) == {"1": [None, [None, 0.5]], "é": None}
    assert finite({"a": {"b": -math.inf}}) == {"a": {"b": None}}


def test_a_lock_keeps_other_processes_out_until_it_is_left(tmp_path):
    lock = tmp_path / "work" / ".lock"
    code = "import sys; from pathlib import Path; from ultrafuser.files import locked\n"
    code += "with locked(Path(sys.argv[1]), 'taken; wait'): print('mine')"
    with locked(lock, "never"):
        other = subprocess.run([sys.executable, "-c", code, lock], capture_output=True, text=True, timeout=60)
    assert "ValueError: taken; wait" in other.stderr
    done = subprocess.run([sys.executable, "-c", code, lock], capture_output=True, text=True, timeout=60)
    assert done.stdout == "mine\n"
