"""Tokens as byte strings: what each id of a tokenizer spells, and how ids of several tokenizers answer each other."""

from ultrafuser.tokens.alignment import Alignment
from ultrafuser.tokens.compare import difference
from ultrafuser.tokens.table import TokenTable

__all__ = ["Alignment", "TokenTable", "difference"]
