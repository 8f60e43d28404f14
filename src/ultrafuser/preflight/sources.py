"""Where a specialist lies: a folder, a GGUF file, a shipped model, or a Hub repository (its small files are read); and
of an adapter, where its base lies."""

import os
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from ultrafuser.adapter_files import WEIGHTS, AdapterFacts, find_base, is_adapter, read_adapter
from ultrafuser.gguf import is_gguf
from ultrafuser.preflight.headers import read_gguf
from ultrafuser.recipe import SpecialistSource, has_scheme, is_hub_model
from ultrafuser.safetensors_files import Tensor, read_folder

HUB_SECONDS = 5.0
SMALL_FILES = ("*.json", "*.jinja", "*.model", "*.txt", "README.md", "LICENSE*", "LICENCE*")
Resolve = Callable[[str], str]


class SourceError(ValueError):
    """A specialist that cannot be opened; `fix` says what to do, `part` which of its keys is at fault."""

    def __init__(self, message: str, fix: str = "", part: str = "source") -> None:
        super().__init__(message)
        self.message = message
        self.fix = fix
        self.part = part


@dataclass(frozen=True)
class Located:
    """A specialist's small files on this machine and the headers of its weights; of an adapter, its base's."""

    folder: Path
    tensors: dict[str, Tensor] = field(default_factory=dict)
    warning: str = ""  # why the headers are not known, when they are not
    commit: str | None = None  # of a Hub model
    weights_here: bool = True  # False: still to be downloaded
    file: Path | None = None  # the GGUF file in the folder that is the whole model
    shown: str = ""  # the model's name for a person
    adapter: AdapterFacts | None = None

    @property
    def place(self) -> Path:
        """The model's folder or file: specialists of one place share one copy of it, if adapters sit on it."""
        return (self.file or self.folder).resolve()


def locate(spec: SpecialistSource, resolve: Resolve, *, with_base: bool = True) -> Located:
    """The specialist's files. Raises SourceError, at once for a missing folder: only a revision leads to the Hub.

    Without `with_base`, an adapter for which no base is named in `spec` comes alone, its folder in its base's place.
    """
    found = _model(spec.source, spec.revision, resolve)
    if found.adapter is None:
        if spec.base is not None:
            raise SourceError("is a complete model, not an adapter, so that it has no base", "remove `base`", "base")
        return found
    if spec.base is None and not with_base:
        return found
    try:
        base, revision = find_base(found.adapter, spec.base, spec.base_revision, "source")
    except ValueError as error:
        raise told(error) from None
    try:
        under = _model(base, revision, resolve)
    except SourceError as error:
        fix = error.fix.replace("its revision too, for example r", "base_revision too, for example base_r")
        raise SourceError(f"the base {base!r}: {error.message}", fix, "base") from None
    if under.adapter is not None:
        raise SourceError(f"the base {base!r} is an adapter itself", "name the model it sits on", "base")
    return replace(under, adapter=found.adapter)


def _model(source: str, revision: str | None, resolve: Resolve) -> Located:
    """A model, or an adapter without its base yet."""
    if is_hub_model(source, revision):
        return _hub(source, revision or "main")
    try:
        folder = Path(os.path.expanduser(resolve(source)))
    except (ValueError, OSError) as error:
        raise SourceError(str(error)) from None
    if is_gguf(folder) and not folder.is_dir():
        return _gguf(folder)
    if is_adapter(folder):
        return _adapter(folder, source)
    _check_folder(folder, source)
    return replace(_folder(folder), shown=source if has_scheme(source) else folder.name)


def _adapter(folder: Path, shown: str) -> Located:
    try:
        return Located(folder, shown=shown, adapter=read_adapter(folder, "source"))
    except ValueError as error:
        raise told(error) from None


def _folder(folder: Path) -> Located:
    try:
        return Located(folder, read_folder(folder))
    except FileNotFoundError:
        return _without_safetensors(folder)
    except (ValueError, OSError) as error:
        raise SourceError(
            f"the weights in {folder} cannot be read: {error}", "copy or download the model again"
        ) from None


def _gguf(file: Path) -> Located:
    if not file.is_file():
        raise SourceError(f"the file {file} does not exist", "correct the path")
    try:
        return Located(file.parent, read_gguf(file), file=file, shown=file.name)
    except (ValueError, OSError) as error:
        raise told(error) from None


def told(error: Exception) -> SourceError:
    """An error of `ultrafuser.gguf`, "source: what is wrong; how to mend it", as one of this check."""
    message, _, fix = str(error).removeprefix("source: ").rpartition("; ")
    return SourceError(message, fix) if message else SourceError(fix)


def _check_folder(folder: Path, written: str) -> None:
    if folder.is_file():
        fix = "give a .gguf file, or the folder that holds config.json and the safetensors files"
        raise SourceError(f"{folder} is a file, not a folder with a model", fix)
    if not folder.is_dir():
        fix = "correct the path"
        if written.count("/") <= 1 or str(folder).endswith(written):
            fix += "; a model on the Hub needs its revision too, for example revision: main"
        raise SourceError(f"the folder {folder} does not exist", fix)
    if (folder / "config.json").is_file():
        return
    found = ", ".join(sorted(entry.name for entry in folder.iterdir())[:5]) or "nothing"
    raise SourceError(f"{folder} has no config.json (it holds {found})", "give the folder of a Transformers model")


def _without_safetensors(folder: Path) -> Located:
    pickles = sorted(file.name for pattern in ("*.bin", "*.pt", "*.pth") for file in folder.glob(pattern))
    if pickles:
        return Located(folder, warning=f"its weights are pickled ({pickles[0]}), which this check does not open")
    others = sorted(file.name for file in folder.glob("*.safetensors"))
    if others:
        raise SourceError(f"{folder} has no model.safetensors but {', '.join(others[:3])}", "is this a complete model?")
    raise SourceError(f"{folder} holds a configuration but no weights", "add model.safetensors")


def _hub(repository: str, revision: str) -> Located:
    """Configuration, tokenizer and card from the Hub or its cache; of the weights only the headers."""
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import GatedRepoError, RepositoryNotFoundError, RevisionNotFoundError

    options: dict[str, Any] = {"revision": revision, "etag_timeout": HUB_SECONDS}
    try:
        folder = Path(snapshot_download(repository, allow_patterns=list(SMALL_FILES), **options))
        if is_adapter(folder):
            folder = Path(snapshot_download(repository, allow_patterns=[*SMALL_FILES, WEIGHTS], **options))
    except GatedRepoError:
        fix = "accept its terms there and log in with `hf auth login`"
        raise SourceError(f"{repository} is gated on the Hub", fix) from None
    except RevisionNotFoundError:
        fix = "give a branch, tag or commit of it"
        raise SourceError(f"{repository} has no revision {revision!r} on the Hub", fix) from None
    except RepositoryNotFoundError:
        raise SourceError(f"the Hub has no model {repository!r}, or not for you", "correct the id, or log in") from None
    except Exception as error:  # no network shows as many kinds, which differ between versions of the client
        raise SourceError(
            f"{repository} is not in the local cache and the Hub cannot be reached ({_first_sentence(error)})",
            "go online, download the model first, or give a local folder",
        ) from None
    if is_adapter(folder):
        return _adapter(folder, repository)
    if not (folder / "config.json").is_file():
        raise SourceError(f"{repository} has no config.json", "give a Transformers model")
    commit = folder.name if len(folder.name) == 40 else None
    try:
        return Located(folder, read_folder(folder), commit=commit, shown=repository)
    except (OSError, ValueError):
        pass  # the weights are not in the cache: ask for their headers
    return _hub_headers(repository, revision, folder, commit)


def _first_sentence(error: Exception) -> str:
    if "outgoing traffic has been disabled" in str(error):
        return "HF_HUB_OFFLINE is set"
    lines = str(error).strip().splitlines() or [type(error).__name__]
    return lines[0].removeprefix("Got: ")[:160]


def _hub_headers(repository: str, revision: str, folder: Path, commit: str | None) -> Located:
    from huggingface_hub import get_safetensors_metadata

    try:
        metadata = get_safetensors_metadata(repository, revision=revision)
    except Exception as error:  # the client has many kinds; none of them stops the check, the headers stay unknown
        reason = f"its weights' headers cannot be read from the Hub ({type(error).__name__})"
        return Located(folder, warning=reason, commit=commit, weights_here=False, shown=repository)
    tensors = {
        name: Tensor(info.dtype, tuple(info.shape))
        for file in metadata.files_metadata.values()
        for name, info in file.tensors.items()
    }
    return Located(folder, tensors, commit=commit, weights_here=False, shown=repository)
