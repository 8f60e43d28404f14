"""GGUF files without PyTorch: header, configuration, tokenizer, licence, and where a converted copy of one lies."""

from ultrafuser.gguf.copies import cache_folder, find_copy, known_copy
from ultrafuser.gguf.header import SUFFIX, Header, check_file, is_gguf, licence, read_header, tensor_names
from ultrafuser.gguf.parts import end_ids, open_config, open_tokenizer

__all__ = [
    "SUFFIX",
    "Header",
    "cache_folder",
    "check_file",
    "end_ids",
    "find_copy",
    "is_gguf",
    "known_copy",
    "licence",
    "open_config",
    "open_tokenizer",
    "read_header",
    "tensor_names",
]
