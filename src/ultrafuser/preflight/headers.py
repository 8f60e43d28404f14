"""Names and shapes of the weights in a GGUF file, as of a safetensors file, without the weights."""

from collections.abc import Iterable
from pathlib import Path

from ultrafuser import gguf
from ultrafuser.safetensors_files import Tensor


def read_gguf(file: Path) -> dict[str, Tensor]:
    """Tensors of a GGUF file in float32, which is what they are unpacked to, with layers and embedding named as
    Transformers names them.

    Raises ValueError for what is no GGUF file, is cut off, or cannot be unpacked because the package is missing.
    """
    shapes = gguf.read_header(file, "source").shapes.items()
    return {_full(name): Tensor("F32", shape) for name, shape in shapes if not name.startswith("rope_")}  # rope: tables


def names_in_gguf(file: Path, layers: Iterable[str]) -> dict[str, str]:
    """The names that `read_gguf` gives to layers, by Transformers' names for them."""
    return {layer: _full(f"{name}.").removesuffix(".") for layer, name in gguf.tensor_names(file, layers).items()}


def _full(name: str) -> str:
    return name.replace("blk.", "model.layers.", 1).replace("token_embd.", "model.embed_tokens.", 1)
