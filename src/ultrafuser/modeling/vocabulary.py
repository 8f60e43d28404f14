"""Whether specialists speak the same tokens, how many of their heads' rows are real ones, and, where their tokenizers
differ, how their tokens are aligned."""

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from transformers import AutoTokenizer, PreTrainedModel

from ultrafuser.modeling.specialists import open_tokenizer
from ultrafuser.templates import answer_ends
from ultrafuser.tokens import Alignment, TokenTable, difference

TOKENIZERS = "tokenizers"  # folder of a checkpoint that holds the specialists' tokenizers, where they differ


def tokenizer_of(specialist: Any) -> Any:
    """The tokenizer beside a specialist's weights, in its file or beside its base; None where there is none."""
    for origin in (getattr(specialist, "ultrafuser_origin", None), getattr(specialist, "base_origin", None)):
        if origin is None or (origin.file is None and not any(origin.folder.glob("tokenizer*"))):
            continue
        try:
            return open_tokenizer(origin)
        except ValueError:
            continue
    return None


def check_tokens(tokenizers: Mapping[str, Any]) -> None:
    """Raise ValueError where an id means two tokens to two specialists: column i of all logits must be one token."""
    found = difference(tokenizers)
    if found is not None:
        raise ValueError(
            f"specialists.{found[0]}: {found[1]}; fuse specialists that share one tokenizer, or mix probabilities over "
            "the texts of the tokens (fusion: {rule: probabilities})"
        )


def align_specialists(
    opened: Mapping[str, PreTrainedModel],
    tokenizers: Mapping[str, Any],
    templates: Sequence[str],
    rule: str,
) -> Alignment | None:
    """The alignment of specialists whose tokenizers differ; None where they share one, or where none is known.

    Raises ValueError where the rule adds up logits, a tokenizer is missing or its bytes cannot be recovered, or where
    too little is common to two (`check_overlap`).
    """
    if difference(tokenizers) is None:
        return None
    if rule != "probabilities":
        check_tokens(tokenizers)
    for name in opened:
        if name not in tokenizers:
            raise ValueError(f"specialists.{name}: has no tokenizer of its own, and those of the others differ; add it")
    entries = []
    for (name, model), template in zip(opened.items(), templates, strict=True):
        own = tokenizers[name]
        rows = model.get_output_embeddings().weight.shape[0]
        tokens = min(rows, 1 + max(own.get_vocab().values()))
        entries.append({"tokens": tokens, "eos": answer_ends(own, template, configured_ends(model))})
    aligned = align(list(opened), [tokenizers[name] for name in opened], entries)
    aligned.check_overlap(list(opened))
    return aligned


def vocabularies(aligned: Alignment | None) -> list[dict[str, Any]]:
    """What the configuration keeps of an alignment: enough to make it again from the tokenizers."""
    tables = [] if aligned is None else aligned.tables
    return [{"tokens": len(table), "eos": sorted(table.eos)} for table in tables]


def align(names: Sequence[str], tokenizers: Sequence[Any], entries: Sequence[Mapping[str, Any]]) -> Alignment:
    """The alignment that the configuration's `vocabularies` tell of."""
    tables = [
        TokenTable(tokenizer, entry["tokens"], eos=entry["eos"], field=f"specialists.{name}")
        for name, tokenizer, entry in zip(names, tokenizers, entries, strict=True)
    ]
    return Alignment(tables, names)


def tokenizer_folder(name: str) -> str:
    """Where a specialist's tokenizer lies in a checkpoint."""
    return f"{TOKENIZERS}/{name.replace(os.sep, '-').replace('/', '-')}"


def save_tokenizers(model: Any, folder: Path) -> None:
    """Write the specialists' tokenizers beside a checkpoint, where they differ."""
    for name, tokenizer in zip(model.config.specialist_names, model.tokenizers or [], strict=False):
        tokenizer.save_pretrained(folder / tokenizer_folder(name))


def find_tokenizers(model: Any) -> list[Any]:
    """The specialists' tokenizers: those kept in the model's checkpoint, else those beside the specialists."""
    place, found = model.tokenizer_place or model.config._name_or_path, []
    for name, specialist in zip(model.config.specialist_names, model.specialists, strict=True):
        tokenizer = _kept_tokenizer(place, tokenizer_folder(name)) or tokenizer_of(specialist)
        if tokenizer is None:
            raise ValueError(
                f"specialists.{name}: its tokenizer is neither in {str(place)!r} ({tokenizer_folder(name)}) nor beside "
                "its weights; the tokenizers differ, so that each is needed"
            )
        found.append(tokenizer)
    return found


def _kept_tokenizer(place: str, folder: str) -> Any:
    if not place:
        return None
    if Path(place).is_dir():
        inner = Path(place) / folder
        return AutoTokenizer.from_pretrained(inner, trust_remote_code=False) if inner.is_dir() else None
    try:
        return AutoTokenizer.from_pretrained(place, subfolder=folder, trust_remote_code=False)
    except (OSError, ValueError):
        return None


def configured_ends(model: PreTrainedModel) -> list[int]:
    """The end-of-sequence ids that a specialist's configuration names; the one of generation is kept up to date."""
    for settings in (model.generation_config, model.config):
        ends = getattr(settings, "eos_token_id", None)
        if ends is not None:
            return list(ends) if isinstance(ends, list | tuple) else [ends]
    return []


def united_ends(opened: Mapping[str, PreTrainedModel], vocab_size: int) -> int | list[int] | None:
    """All end-of-sequence ids of specialists that share a tokenizer, the first specialist's before the others."""
    ends = list(dict.fromkeys(i for model in opened.values() for i in configured_ends(model) if i < vocab_size))
    return None if not ends else ends[0] if len(ends) == 1 else ends


def common_vocabulary(
    opened: Mapping[str, PreTrainedModel], tokenizers: Mapping[str, Any], vocab_size: int | None
) -> int:
    """How many rows of the heads are real: `vocab_size`, else the first tokenizer's tokens, else the rows of all heads.

    Raises ValueError where the heads differ and nothing settles it, or where a head is too small.
    """
    rows = {name: model.get_output_embeddings().weight.shape[0] for name, model in opened.items()}
    shown = ", ".join(f"{name} {count}" for name, count in rows.items())
    first = next(iter(rows))
    if vocab_size is None and first in tokenizers and tokenizers.keys() == rows.keys():
        vocab_size = 1 + max(tokenizers[first].get_vocab().values())
    if vocab_size is None:
        if len(set(rows.values())) > 1:
            raise ValueError(
                f"specialists: vocabulary sizes differ ({shown}); specialists must share one tokenizer. If they do and "
                "their tables are only padded differently, pass vocab_size, the number of tokens of the tokenizer"
            )
        return rows[first]
    if not 0 < vocab_size <= min(rows.values()):
        raise ValueError(
            f"vocab_size: {vocab_size} tokens, but the specialists' heads have {shown} rows; all specialists must "
            "share one tokenizer, whose tokens number at most the rows of the smallest head"
        )
    return vocab_size
