"""The sources the zoo may be trained on, and how a record of each becomes an example or a piece of raw text.

A source that is not in SOURCES is never opened for training: that is how licences are kept. It knows nothing of tokens.
"""

import gzip
import json
import re
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

DOMAINS = ("text", "code", "math")
STANDARD_LIBRARY = "cpython-stdlib"
Record = dict[str, Any]


@dataclass(frozen=True)
class Piece:
    """One training text: a conversation ending in a response (`messages`), or raw text (`text`)."""

    domain: str
    source: str
    document: str
    messages: list[dict[str, str]] = field(default_factory=list)
    text: str = ""

    def texts(self) -> list[str]:
        """Every string of this piece, for overlap checks."""
        return [self.text] if self.text else [message["content"] for message in self.messages]

    def to_json(self) -> str:
        """One line of JSON."""
        return json.dumps(asdict(self), ensure_ascii=False)


@dataclass(frozen=True)
class Source:
    """One allowed file: where it lies, its licence, how to read it, and whether held-out examples may come from it."""

    name: str
    domain: str
    file: str
    licence: str
    read: Callable[["Source", Record], Piece | None]
    raw: bool = False
    held_out: bool = False
    limit: int | None = None

    def pieces(self, data: Path) -> Iterator[Piece]:
        """Pieces of this source, in file order; records its reader refuses are skipped.

        Raises ValueError when the file is missing.
        """
        for record in records(data / self.file):
            piece = self.read(self, record)
            if piece is not None:
                yield piece


def records(file: Path) -> Iterator[Record]:
    """Records of a JSON Lines file, gzipped or not."""
    if not file.is_file():
        raise ValueError(f"data file {file} does not exist; DATA must be the folder that holds raw/, train/ and bench/")
    with gzip.open(file, "rt", encoding="utf-8") if file.suffix == ".gz" else file.open(encoding="utf-8") as lines:
        for line in lines:
            if line.strip():
                yield json.loads(line)


def turn(prompt: str, response: str) -> list[dict[str, str]]:
    """A conversation of one exchange."""
    return [{"role": "user", "content": prompt.strip()}, {"role": "assistant", "content": response.strip()}]


def instruction(source: Source, record: Record) -> Piece | None:
    """A record with instruction, optional input and output; the document is its input, or the instruction alone."""
    given = (record.get("input") or "").strip()
    prompt = f"{record['instruction'].strip()}\n\n{given}" if given else record["instruction"]
    if not prompt.strip() or not record["output"].strip():
        return None
    document = f"{source.name}:{given or record['instruction'].strip()}"
    return Piece(source.domain, source.name, document, turn(prompt, record["output"]))


def conversation(source: Source, record: Record) -> Piece | None:
    """An OASST branch; the document is its tree."""
    if record["messages"][-1]["role"] != "assistant":
        return None
    return Piece(source.domain, source.name, f"{source.name}:{record['tree']}", record["messages"])


def documented_function(source: Source, record: Record) -> Piece | None:
    """A docstring and its function, from any package but Python's own library; the document is package + name."""
    if record["package"] == STANDARD_LIBRARY:
        return None
    prompt = f"Write a Python function `{record['name']}`.\n\n{record['instruction'].strip()}"
    document = f"{source.name}:{record['package']}:{record['name']}"
    return Piece(source.domain, source.name, document, turn(prompt, record["output"]))


def puzzle(source: Source, record: Record) -> Piece | None:
    """A programming puzzle and its solution; the document is the puzzle's family."""
    parts = [record.get("docstring") or "", "Write `sol` so that `sat` returns True:", record["sat"]]
    prompt = "\n\n".join(part.strip() for part in parts if part.strip())
    response = f"{record['sol_header']}\n{record['solution'].rstrip()}"
    return Piece(source.domain, source.name, f"{source.name}:{record['family']}", turn(prompt, response))


def basic_problem(source: Source, record: Record) -> Piece | None:
    """An MBPP task; the document is the task."""
    code = record["code"].replace("\r\n", "\n").replace("\t", "    ")
    return Piece(source.domain, source.name, f"{source.name}:{record['task_id']}", turn(record["text"], code))


def worked_problem(source: Source, record: Record) -> Piece | None:
    """A GSM8K problem without calculator marks, ending in an answer line; the document is the problem."""
    steps = re.sub(r"<<[^<>]*>>", "", record["solution"]).split("####")[0].strip()
    response = f"{steps}\nThe answer is {record['answer']}."
    return Piece(source.domain, source.name, f"{source.name}:{record['id']}", turn(record["question"], response))


def multiple_choice(source: Source, record: Record) -> Piece | None:
    """An AQuA problem with its options, its rationale and an answer line; the document is the problem."""
    prompt = record["question"].strip() + "\n" + "\n".join(record["options"])
    response = f"{record['rationale'].strip()}\nThe answer is {record['correct']}."
    return Piece(source.domain, source.name, f"{source.name}:{record['id']}", turn(prompt, response))


def short_answer(source: Source, record: Record) -> Piece | None:
    """A generated question and its answer; the document is the record."""
    return Piece(
        source.domain, source.name, record["id"], turn(record["question"], f"The answer is {record['answer']}.")
    )


def question_text(source: Source, record: Record) -> Piece | None:
    """A generated question and its answer as plain text."""
    return Piece(
        source.domain, source.name, record["id"], text=f"{record['question'].strip()}\n{record['answer'].strip()}"
    )


def plain_text(source: Source, record: Record) -> Piece | None:
    """A record's text as it stands; the document is its path, or its id."""
    document = f"{record['package']}:{record['path']}" if "path" in record else record["id"]
    return Piece(source.domain, source.name, document, text=record["text"].strip()) if record["text"].strip() else None


_DOLLY = "CC BY-SA 3.0"
_P3 = "Apache-2.0 prompts over data sets under MIT, CC BY 4.0, CC BY-SA 3.0 and CC BY-SA 4.0"
_PYTHON = "PSF-2.0, BSD, MIT, Apache-2.0, public domain, by package"
_PACKAGES = "BSD, MIT, Apache-2.0, public domain, by package"

SOURCES: dict[str, Source] = {
    source.name: source
    for source in (
        Source("books", "text", "raw/text/books.jsonl.gz", "public domain", plain_text, raw=True),
        Source("addresses", "text", "raw/text/addresses.jsonl.gz", "public domain", plain_text, raw=True),
        Source("tinystories", "text", "raw/text/tinystories.jsonl", "CDLA-Sharing-1.0", plain_text, raw=True),
        Source("python_source", "code", "raw/code/python_source.jsonl.gz", _PYTHON, plain_text, raw=True),
        Source(
            "mathematics_dataset",
            "math",
            "raw/math/mathematics_dataset.jsonl.gz",
            "Apache-2.0",
            question_text,
            raw=True,
        ),
        Source("reasoning_gym", "math", "raw/math/reasoning_gym.jsonl.gz", "Apache-2.0", question_text, raw=True),
        Source("dolly", "text", "train/text/dolly.jsonl.gz", _DOLLY, instruction, held_out=True),
        Source("oasst_en", "text", "train/text/oasst_en.jsonl.gz", "Apache-2.0", conversation, held_out=True),
        Source("p3_open", "text", "train/text/p3_open.jsonl.gz", _P3, instruction),
        Source(
            "gpteacher_roleplay", "text", "train/text/gpteacher_roleplay.jsonl.gz", "MIT", instruction, held_out=True
        ),
        Source("self_instruct_seed", "text", "train/text/self_instruct_seed.jsonl", "Apache-2.0", instruction),
        Source(
            "py_docstrings", "code", "train/code/py_docstrings.jsonl.gz", _PACKAGES, documented_function, held_out=True
        ),
        Source("python_puzzles", "code", "train/code/python_puzzles.jsonl", "MIT", puzzle, held_out=True),
        Source("mbpp_train", "code", "train/code/mbpp_train.jsonl", "CC BY 4.0", basic_problem, held_out=True),
        Source("gpteacher_codegen", "code", "train/code/gpteacher_codegen.jsonl.gz", "MIT", instruction, held_out=True),
        Source("gsm8k_train", "math", "train/math/gsm8k_train.jsonl.gz", "MIT", worked_problem, held_out=True),
        Source("aqua_dev", "math", "train/math/aqua_dev.jsonl", "Apache-2.0", multiple_choice, held_out=True),
        Source(
            "mathematics_dataset_short",
            "math",
            "raw/math/mathematics_dataset.jsonl.gz",
            "Apache-2.0",
            short_answer,
            limit=4000,
        ),
        Source(
            "reasoning_gym_short", "math", "raw/math/reasoning_gym.jsonl.gz", "Apache-2.0", short_answer, limit=6000
        ),
    )
}
