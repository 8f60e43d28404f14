"""Opening the model that a verb works on: a fused model, or any causal LM as a single specialist."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ultrafuser.cli.common import resolve_source
from ultrafuser.lookup import lookup

__all__ = ["Opened", "open_fused", "quiet_libraries"]

GGUF = ".gguf"


@dataclass(frozen=True)
class Opened:
    """A model ready to speak, as the user named it."""

    source: str
    model: Any
    tokenizer: Any

    @property
    def names(self) -> list[str]:
        """The specialists' names."""
        return list(self.model.config.specialist_names)

    @property
    def gate_notice(self) -> str | None:
        """What has to be said wherever weights are shown while the gate is untrained; None when it is trained."""
        if self.model.n_specialists < 2 or self.model.gate_is_trained:
            return None
        gate = self.model.config.gate
        origin = "equal shares" if gate["type"] == "constant" else f"random numbers (seed {gate['seed']})"
        return f"The weights come from {origin} and say nothing until the gate is trained (ultrafuser train)."

    def forced(self, only: str | None) -> tuple[float, ...] | None:
        """Gate weights that let one specialist speak alone; None lets the gate decide."""
        from ultrafuser.generation import only_weights

        return None if only is None else only_weights(self.names, only)

    def as_dict(self) -> dict[str, Any]:
        """What every JSON file says about the model it came from."""
        return {
            "model": self.source,
            "specialists": self.names,
            "gate": self.model.config.gate["type"],
            "gate_trained": self.gate_notice is None,
            "fusion": dict(self.model.config.fusion),
        }


def open_fused(
    source: str,
    *,
    revision: str | None = None,
    device: str | None = None,
    specialist_paths: Sequence[str] | None = None,
    only: str | None = None,
    dtype: str | None = None,
    quantise: str | None = None,
) -> Opened:
    """The fused model and its tokenizer, ready to speak.

    `source` is a folder, a GGUF file, "zoo:name", or with a revision a Hub id; one that is not there is named at once.
    A plain causal LM becomes a fused model of one specialist, in its own template (where it has none: `plain`, after
    the begin-of-sequence token if its tokenizer sets one).
    `specialist_paths` are NAME=FOLDER. `dtype` is a number format's name, `quantise` int8 or int4 for all specialists.
    A wrong value of any of them, or of `only`, is refused before any weights are read.
    """
    path = _locate(source, revision)
    paths = _named_paths(specialist_paths)
    _check_only(path, only)
    place = _device(device)
    quiet_libraries()
    from ultrafuser.modeling.quantisation import check_quantisation
    from ultrafuser.modeling.specialists import number_format, open_tokenizer, read_config, resolve
    from ultrafuser.modeling.vocabulary import tokenizer_of

    check_quantisation(quantise, "--quantise", number_format(dtype, "--dtype"))
    config = read_config(path, "MODEL") if path.is_dir() else None
    borrowed = getattr(config, "gate_only", False) and not any(path.glob("tokenizer*"))  # its first specialist's
    tokenizer = None if borrowed else open_tokenizer(resolve(path, field="MODEL"), "MODEL")
    if config is not None and config.model_type == "ultrafuser":
        model = _fused(path, config.specialist_names, paths, place, dtype, quantise)
        tokenizer = tokenizer or tokenizer_of(model.specialists[0])
    elif paths:
        raise ValueError(f"--specialist-path: {source!r} is no fused model, so it has no specialists to find")
    else:
        model = _single(path, place, dtype, quantise)
    if model.n_specialists == 1 and not model.config.templates[0]:
        model.config.templates = [_plain(tokenizer)]
    return Opened(source, model.eval(), tokenizer)


def quiet_libraries() -> None:
    """Silence progress bars and notes of the libraries below; errors still come."""
    from transformers.utils import logging

    logging.set_verbosity_error()
    logging.disable_progress_bar()


def _locate(source: str, revision: str | None) -> Path:
    """The model's folder or GGUF file; a Hub id, which it is exactly when a revision is given, is fetched."""
    if revision is not None:
        from ultrafuser.modeling.specialists import resolve

        return resolve(source, revision, "MODEL").folder
    folder = Path(resolve_source(source)).expanduser()
    if folder.suffix == GGUF and folder.is_file():
        return folder
    if not folder.is_dir():
        kind = "is a file, neither a folder nor a .gguf file" if folder.exists() else "does not exist"
        hint = (
            "; a model on the Hub needs --revision too, for example --revision main" if source.count("/") == 1 else ""
        )
        what = "file" if folder.suffix == GGUF else "folder"
        raise ValueError(f"MODEL: {what} {source!r} {kind}{hint}")
    if not (folder / "config.json").is_file():
        inside = sorted(path.parent.name for path in folder.glob("*/config.json"))
        hint = f"; did you mean {str(folder / inside[0])!r}?" if inside else ""
        raise ValueError(f"MODEL: folder {source!r} has no config.json, so it holds no model{hint}")
    return folder


def _check_only(folder: Path, only: str | None) -> None:
    from ultrafuser.generation import only_weights

    if only is None:
        return
    if folder.is_file():
        only_weights([folder.stem], only)
        return
    file = folder / "config.json"
    try:
        config = json.loads(file.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"MODEL: {file} is not valid JSON ({error}); copy the model again") from error
    only_weights(config.get("specialist_names") or [folder.name], only)


def _named_paths(pairs: Sequence[str] | None) -> dict[str, str]:
    paths = {}
    for pair in pairs or ():
        name, mark, folder = pair.partition("=")
        if not mark or not name or not folder:
            raise ValueError(f"--specialist-path: {pair!r} must read NAME=FOLDER")
        if not Path(folder).expanduser().exists():
            raise ValueError(f"--specialist-path: folder {folder!r} does not exist")
        paths[name] = folder
    return paths


def _fused(
    path: Path, names: Sequence[str], paths: dict[str, str], place: str, dtype: str | None, quantise: str | None
) -> Any:
    from ultrafuser.modeling import UltraFuserForCausalLM

    options: dict[str, Any] = {} if dtype is None else {"dtype": dtype}
    if quantise is not None:
        options["quantisation"] = dict.fromkeys(names, quantise)
    return UltraFuserForCausalLM.from_pretrained(path, specialist_paths=paths, device_map={"": place}, **options)


def _single(path: Path, place: str, dtype: str | None, quantise: str | None) -> Any:
    from ultrafuser.modeling import UltraFuserForCausalLM

    name = path.stem if path.is_file() else path.name
    return UltraFuserForCausalLM.from_specialists(
        {name: path}, dtype=dtype, device=place, quantisation={name: quantise}
    )


def _plain(tokenizer: Any) -> str:
    """The template of a model that has none: texts one after another, opened as its tokenizer opens them."""
    from ultrafuser.templates import load_template

    begin = tokenizer.bos_token_id
    opens = begin is not None and tokenizer("a")["input_ids"][:1] == [begin]
    return ("{{ bos_token }}" if opens else "") + load_template("plain")


def _device(wanted: str | None) -> str:
    """The device asked for, or the fastest there is. Raises ValueError for one that this machine lacks."""
    import torch

    there = {"cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available(), "cpu": True}
    if wanted is None:
        return next(kind for kind, here in there.items() if here)
    kind, _, number = wanted.partition(":")
    lookup(there, kind, "--device")
    if not there[kind] or (kind == "cuda" and number and int(number) >= torch.cuda.device_count()):
        have = ", ".join(one for one, here in there.items() if here)
        raise ValueError(f"--device: {wanted!r} is not on this machine; there is {have}")
    return wanted
