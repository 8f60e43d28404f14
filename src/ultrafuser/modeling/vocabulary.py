"""Whether specialists speak the same tokens, and how many of their heads' rows are real ones."""

from collections.abc import Mapping
from typing import Any

from transformers import PreTrainedModel

from ultrafuser.modeling.specialists import open_tokenizer


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
    """Raise ValueError where an id means different tokens to two specialists: column i of all logits must be one token.

    Equal sizes prove nothing, so ids are compared one by one. An id that only one tokenizer knows is no contradiction.
    """
    names = list(tokenizers)
    if len(names) < 2:
        return
    first = {index: token for token, index in tokenizers[names[0]].get_vocab().items()}
    for name in names[1:]:
        own = {index: token for token, index in tokenizers[name].get_vocab().items()}
        other = sorted(index for index in own.keys() & first.keys() if own[index] != first[index])
        if other:
            i, sizes = other[0], f"{len(own)} and {len(first)} tokens"
            raise ValueError(
                f"specialists.{name}: its tokenizer is not that of {names[0]} ({sizes}, {len(other)} ids differ; the "
                f"first is {i}: {own[i]!r} here, {first[i]!r} there); fuse specialists that share one tokenizer"
            )


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
