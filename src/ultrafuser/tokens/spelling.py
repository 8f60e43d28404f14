"""What the pieces of a tokenizer's vocabulary spell, read from its parts: byte-level alphabets and byte fallback.

Knows `tokenizers` backends by their serialised parts only; says nothing about how text is cut into pieces.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from typing import Any

__all__ = ["adds_prefix_space", "backend_of", "piece_texts", "without_prefix_space"]

# Rows of a padded head that a converter gave a name: no text is ever cut into them.
PADDING_PIECE = re.compile(r"\[PAD\d+\]")
SPACE_MARK = "\u2581"  # SentencePiece's visible space


def backend_of(tokenizer: Any) -> Any:
    """The `tokenizers.Tokenizer` inside. Raises ValueError where there is none to read the pieces from."""
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if backend is None:
        raise ValueError(
            f"tokenizer: {type(tokenizer).__name__} has no fast form (tokenizer.json), from which its bytes could be "
            "read; save it as a fast tokenizer"
        )
    return backend


def piece_texts(backend: Any) -> tuple[dict[int, bytes | None], set[int]]:
    """What each id spells (None for special tokens, the unknown token and padding), and which ids are byte pieces.

    Raises ValueError where the pieces do not say which bytes they stand for.
    """
    pieces: dict[str, int] = backend.get_vocab(with_added_tokens=False)
    names = set(_types(_part(backend.decoder))) | set(_types(_part(backend.pre_tokenizer)))
    byte_ids: set[int] = set()
    found: dict[int, bytes | None]
    if "ByteLevel" in names:
        found = {i: _byte_level(piece) for piece, i in pieces.items()}
    elif "<0x0A>" in pieces and "<0xFF>" in pieces:
        mark = SPACE_MARK if SPACE_MARK in json.dumps([_part(p) for p in _parts(backend)], ensure_ascii=False) else " "
        found = {i: piece.replace(mark, " ").encode() or None for piece, i in pieces.items()}
        for byte in range(256):
            if (i := pieces.get(f"<0x{byte:02X}>")) is not None:
                found[i] = bytes([byte])
                byte_ids.add(i)
    else:
        raise ValueError(
            f"tokenizer: its {type(backend.model).__name__} vocabulary has neither a byte-level alphabet nor byte "
            "pieces (<0x00> to <0xFF>), so not every text can be written with it; fuse specialists of one tokenizer"
        )
    for piece, i in pieces.items():
        if piece.startswith("[PAD") and PADDING_PIECE.fullmatch(piece):
            found[i] = None
    unknown = getattr(backend.model, "unk_token", None)
    if unknown in pieces:
        found[pieces[unknown]] = None
    if isinstance(unknown_id := getattr(backend.model, "unk_id", None), int):
        found[unknown_id] = None
    for i, token in backend.get_added_tokens_decoder().items():
        found[i] = None if token.special or PADDING_PIECE.fullmatch(token.content) else token.content.encode()
    return found, byte_ids


def adds_prefix_space(backend: Any) -> bool:
    """Whether the first word of a text gets a space that the text does not have ("dummy prefix")."""
    edited = json.dumps([_without_prefix(_part(part)) for part in _parts(backend)])
    return edited != json.dumps([_part(part) for part in _parts(backend)])


def without_prefix_space(backend: Any) -> Any:
    """A copy that cuts a text as the continuation of another one: no space is put before its first word."""
    from tokenizers import Tokenizer

    whole = json.loads(backend.to_str())
    for name in ("normalizer", "pre_tokenizer"):
        whole[name] = _without_prefix(whole[name])
    whole |= {"truncation": None, "padding": None}
    copy = Tokenizer.from_str(json.dumps(whole))
    copy.encode_special_tokens = True
    return copy


def _parts(backend: Any) -> tuple[Any, Any]:
    return backend.normalizer, backend.pre_tokenizer


def _part(part: Any) -> Any:
    """A normaliser, pre-tokenizer or decoder as plain JSON."""
    return None if part is None else json.loads(part.__getstate__())


def _types(part: Any) -> Iterator[str]:
    """The names of all parts inside a part."""
    if isinstance(part, Mapping):
        if isinstance(part.get("type"), str):
            yield part["type"]
        for value in part.values():
            yield from _types(value)
    elif isinstance(part, list):
        for value in part:
            yield from _types(value)


def _without_prefix(part: Any) -> Any:
    """The part without anything that puts a space in front; None where nothing is left."""
    if not isinstance(part, Mapping):
        return part
    if part.get("type") == "Prepend":
        return None
    changed = dict(part)
    for inner in ("normalizers", "pretokenizers"):
        if inner in changed:
            changed[inner] = [left for value in changed[inner] if (left := _without_prefix(value)) is not None]
    if "prepend_scheme" in changed:
        changed["prepend_scheme"] = "never"
    if changed.get("add_prefix_space"):
        changed["add_prefix_space"] = False
    return changed


def _byte_alphabet() -> dict[int, str]:
    """GPT-2's visible characters for bytes, as a translation to the characters 0 to 255."""
    plain = [*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)]
    moved = [byte for byte in range(256) if byte not in plain]
    return {byte: chr(byte) for byte in plain} | {256 + n: chr(byte) for n, byte in enumerate(moved)}


_ALPHABET = _byte_alphabet()


def _byte_level(piece: str) -> bytes | None:
    try:
        return piece.translate(_ALPHABET).encode("latin-1") or None
    except UnicodeEncodeError:  # a piece that no text is cut into
        return None
