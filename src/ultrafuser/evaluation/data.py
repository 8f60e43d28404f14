"""A benchmark's records: from a local folder, from the samples that come with the package, or from the Hub.

It knows files and fields, not what a benchmark does with them.
"""

from __future__ import annotations

import gzip
import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from ultrafuser.evaluation.benchmark import Record, Source

__all__ = ["DOMAINS_FILE", "HUB", "SAMPLE", "HubPlace", "Loaded", "load_domains", "load_records", "sample_folder"]

SAMPLE = "sample"  # `data` for the hand-written items that come with the package
HUB = "hub"  # `data` for every benchmark's own place on the Hub
DOMAINS_FILE = "loss"  # the Source.file of held-out loss: a folder of conversations, one file per domain
_ENDINGS = (".jsonl", ".jsonl.gz")
_COMMIT_LENGTH = 40


@dataclass(frozen=True, slots=True)
class HubPlace:
    """A data set on the Hub at a branch, tag or commit."""

    id: str
    revision: str = "main"
    config: str | None = None
    split: str = "test"

    @classmethod
    def parse(cls, text: str, source: Source) -> HubPlace:
        """From ID[:[CONFIG:]SPLIT][@REVISION]; what is left out is as in `source`, the id too ("@REVISION" alone)."""
        place, mark, revision = text.partition("@")
        name, *rest = place.split(":")
        name = name or source.hub_id or ""
        if name.count("/") > 1 or not name or len(rest) > 2 or (mark and not revision) or "" in rest:
            raise ValueError(f"--hub: {text!r} must read ID, ID:SPLIT or ID:CONFIG:SPLIT, then @REVISION where wanted")
        config = rest[0] if len(rest) == 2 else source.hub_config if name == source.hub_id else None
        return cls(name, revision or "main", config, rest[-1] if rest else source.hub_split)


@dataclass(frozen=True, slots=True)
class Loaded:
    """Records in their order, and where they came from: "sha256" names their content in any case."""

    records: list[Record]
    origin: dict[str, Any]


def sample_folder() -> Path:
    """The folder of the hand-written items that come with the package."""
    return Path(__file__).parent / "sample"


def load_records(source: Source, data: str | Path | None, *, hub: HubPlace | None = None) -> Loaded:
    """A benchmark's records: from `hub` where it is given, else from `data`.

    `data` is a folder with FILE.jsonl or FILE.jsonl.gz, "sample" for the items that come with the package, "hub" or
    None for the benchmark's own place on the Hub. Raises ValueError naming file, line, field and fix.
    """
    if hub is not None:
        return _from_hub(source, hub)
    if data is None or str(data) == HUB:
        if source.hub_id is None:
            raise ValueError(
                f"--data: {source.file} has no place on the Hub; give a folder that holds {source.file}.jsonl"
            )
        return _from_hub(source, HubPlace(source.hub_id, "main", source.hub_config, source.hub_split))
    shipped = str(data) == SAMPLE
    file = _find(sample_folder() if shipped else Path(data).expanduser(), source.file)
    records = [_checked(record, source.required, where) for where, record in _lines(file)]
    if not records:
        raise ValueError(f"{file} holds no record; copy the data again")
    origin = {"from": SAMPLE if shipped else "file", "path": file.name if shipped else str(file.absolute())}
    return Loaded(records, origin | {"sha256": _file_hash(file), "records": len(records)})


def load_domains(files: Mapping[str, Path] | None, data: str | Path | None) -> Loaded:
    """Held-out conversations by domain: `files` by domain where they are given, else `data`/loss/DOMAIN.jsonl.

    Every record is {"id", "domain", "messages"}, in the common form of `ultrafuser.data`.
    """
    from ultrafuser.data import load_conversations

    files = files or _domain_files(data)
    records: list[Record] = []
    origins = []
    for domain, file in files.items():
        try:
            conversations = load_conversations(file, domain)
        except ValueError as error:
            raise ValueError(f"held-out loss, {error}") from None
        ids = [f"{domain}/{conversation.id}" for conversation in conversations]
        if len(set(ids)) < len(ids):
            ids = [f"{domain}/{number}" for number in range(1, len(ids) + 1)]
        for name, conversation in zip(ids, conversations, strict=True):
            records.append({"id": name, "domain": domain, "messages": conversation.messages})
        hashed = _file_hash(file)
        origins.append({"domain": domain, "path": str(file.absolute()), "sha256": hashed, "records": len(ids)})
    digest = hashlib.sha256("".join(f"{one['domain']} {one['sha256']}\n" for one in origins).encode()).hexdigest()
    return Loaded(records, {"from": "files", "files": origins, "sha256": digest, "records": len(records)})


def _domain_files(data: str | Path | None) -> dict[str, Path]:
    how = "give --loss-data DOMAIN=FILE, or --data DIR with a folder DIR/loss that holds DOMAIN.jsonl"
    if data is None or str(data) in (HUB, SAMPLE):
        raise ValueError(f"--data: {data or HUB} has no held-out conversations; {how}")
    folder = Path(data).expanduser() / DOMAINS_FILE
    found = {file.name.partition(".")[0]: file for file in sorted(folder.glob("*")) if file.name.endswith(_ENDINGS)}
    if not found:
        raise ValueError(f"--data: {folder} {'holds no .jsonl file' if folder.is_dir() else 'does not exist'}; {how}")
    return found


def _find(folder: Path, stem: str) -> Path:
    """The data file; where it is missing, an error that says what is there."""
    if not folder.is_dir():
        kind = "is a file, not a folder" if folder.exists() else "does not exist"
        raise ValueError(f"--data: folder {str(folder)!r} {kind}; name the folder that holds {stem}.jsonl")
    for ending in _ENDINGS:
        if (folder / f"{stem}{ending}").is_file():
            return folder / f"{stem}{ending}"
    below = sorted(path.parent for ending in _ENDINGS for path in folder.glob(f"*/{stem}{ending}"))
    if below:
        hint = f"did you mean --data {below[0]}?"
    else:
        names = ", ".join(sorted(path.name for path in folder.iterdir() if path.name.endswith(_ENDINGS))) or "none"
        hint = f"its data files are: {names}. Put the file there, leave the benchmark out, or take it from the Hub"
    raise ValueError(f"--data: folder {str(folder)!r} has neither {stem}.jsonl nor {stem}.jsonl.gz; {hint}")


def _open(file: Path) -> IO[str]:
    return gzip.open(file, "rt", encoding="utf-8") if file.suffix == ".gz" else file.open(encoding="utf-8")


def _lines(file: Path) -> Iterator[tuple[str, Any]]:
    """Every line that is not blank, as (place, value)."""
    number = 0
    try:
        with _open(file) as lines:
            for number, line in enumerate(lines, start=1):
                if line.strip():
                    yield f"{file}, line {number}", json.loads(line)
    except json.JSONDecodeError as error:
        raise ValueError(f"{file}, line {number}: not valid JSON ({error.msg}); write one object per line") from None
    except (OSError, EOFError, UnicodeDecodeError) as error:
        raise ValueError(f"{file}, after line {number}: cannot be read ({error}); copy the file again") from None


def _checked(record: Any, required: Iterable[str], where: str) -> Record:
    if not isinstance(record, Mapping):
        raise ValueError(f"{where}: a {type(record).__name__}; write an object with the fields {', '.join(required)}")
    missing = [name for name in required if name not in record]
    if missing:
        raise ValueError(
            f"{where}: field {missing[0]!r} is missing; it has {', '.join(map(str, record)) or 'none'}, "
            f"and needs {', '.join(required)}"
        )
    return record


def _file_hash(file: Path) -> str:
    with file.open("rb") as opened:
        return hashlib.file_digest(opened, "sha256").hexdigest()


def _from_hub(source: Source, place: HubPlace) -> Loaded:
    """Records of a data set on the Hub, in the local file's form; "sha256" is that of the records as JSON."""
    from huggingface_hub.utils import logging

    logging.set_verbosity_error()  # what goes wrong is said once, below
    commit = _commit(place)
    where = f"{place.id} ({place.split}) on the Hub"
    try:
        table = _table(source, place, commit or place.revision)
    except Exception as error:  # the client raises many kinds, and none of them says what may be done
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise ValueError(
            f"{where}, revision {place.revision}: cannot be loaded ({reason}); give a local folder with --data, or "
            "another place with --hub NAME=ID@REVISION"
        ) from None
    records = []
    for number, record in enumerate(table, start=1):
        try:
            adapted = source.adapt(record)
        except (KeyError, TypeError, ValueError, IndexError) as error:
            fields = ", ".join(map(str, record))
            detail = f"no field {error}" if isinstance(error, KeyError) else str(error)
            raise ValueError(
                f"{where}, record {number}: not in the form this benchmark has there ({detail}; fields: {fields}); "
                "name the published data set with --hub NAME=ID@REVISION, or a local folder with --data"
            ) from None
        records.append(_checked(adapted, source.required, f"{where}, record {number}"))
    if not records:
        raise ValueError(f"{where}: holds no record; name another split with --hub NAME=ID:SPLIT")
    text = "\n".join(json.dumps(record, sort_keys=True, ensure_ascii=False, default=str) for record in records)
    origin = {"from": HUB, "id": place.id, "config": place.config, "split": place.split, "revision": place.revision}
    digest = hashlib.sha256(text.encode()).hexdigest()
    return Loaded(records, origin | {"commit": commit, "sha256": digest, "records": len(records)})


def _table(source: Source, place: HubPlace, revision: str) -> Iterable[Record]:
    import datasets

    if source.hub_file is None or place.id != source.hub_id:
        table: Iterable[Record] = datasets.load_dataset(place.id, place.config, split=place.split, revision=revision)
        return table
    address = f"hf://datasets/{place.id}@{revision}/{source.hub_file}"
    table = datasets.load_dataset("json", data_files=address, split="train")
    return table


def _commit(place: HubPlace) -> str | None:
    """The full commit that a revision stands for; None without a network, where the copy kept here is read."""
    if len(place.revision) == _COMMIT_LENGTH and all(letter in "0123456789abcdef" for letter in place.revision):
        return place.revision
    from huggingface_hub import HfApi
    from huggingface_hub.errors import HfHubHTTPError

    try:
        found: str | None = HfApi().dataset_info(place.id, revision=place.revision).sha
    except HfHubHTTPError as error:
        reason = str(error).strip().splitlines()[0]
        raise ValueError(
            f"--hub: {place.id} at revision {place.revision!r} cannot be found ({reason}); check id and revision, or "
            "give a local folder with --data"
        ) from None
    except Exception:  # no network, or told to stay off it
        return None
    return found
