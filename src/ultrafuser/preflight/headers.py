"""Names and shapes of the weights in a GGUF file, as of a safetensors file, without the weights."""

from pathlib import Path

from ultrafuser import gguf
from ultrafuser.safetensors_files import Tensor


def read_gguf(file: Path) -> dict[str, Tensor]:
    """Tensors of a GGUF file in float32, which is what they are unpacked to, with layers and embedding named as
    Transformers names them.

    Raises ValueError for what is no GGUF file, is cut off, or cannot be unpacked because the package is missing.
    """
    tensors = {}
    for name, shape in gguf.read_header(file, "source").shapes.items():
        if not name.startswith("rope_"):  # tables, not weights
            full = name.replace("blk.", "model.layers.", 1).replace("token_embd.", "model.embed_tokens.", 1)
            tensors[full] = Tensor("F32", shape)
    return tensors
