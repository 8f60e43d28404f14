"""The headers of a model's weights: how much there is, and whether it is what the configuration says."""

from itertools import pairwise

from ultrafuser.preflight.sources import SourceError
from ultrafuser.safetensors_files import BYTES, Tensor


def count(tensors: dict[str, Tensor]) -> int:
    """Parameters."""
    return sum(tensor.size for tensor in tensors.values())


def count_bytes(tensors: dict[str, Tensor]) -> int:
    """Bytes as stored."""
    return sum(tensor.size * BYTES.get(tensor.dtype, 1) for tensor in tensors.values())


def count_linear(tensors: dict[str, Tensor]) -> int:
    """Elements of the weight matrices but embedding and head."""
    ends = ("embed", "wte", "wpe", "lm_head", "output.weight")
    return sum(t.size for name, t in tensors.items() if len(t.shape) == 2 and not any(end in name for end in ends))


def check_weights(tensors: dict[str, Tensor], where: str, rows: int, hidden_size: int, layers: int) -> None:
    """Weights against the configuration in `where`: the embedding has the right rows, and no layer is missing.

    Raises SourceError.
    """
    tables = [t for name, t in tensors.items() if len(t.shape) == 2 and ("embed" in name or "wte" in name)]
    wide = [t for t in tables if t.shape[1] == hidden_size]
    if wide and not any(table.shape[0] == rows for table in wide):
        raise SourceError(
            f"{where} says {rows} rows of vocabulary, the weights have {wide[0].shape[0]}",
            f"set vocab_size in {where} to what the weights have",
        )
    found = _layers_found(tensors)
    missing = [i for i in range(layers) if i not in found]
    if found and missing:
        raise SourceError(
            f"{where} says {layers} layers, the weights of layer {missing[0]} are missing",
            "copy or download the model again",
        )


def _layers_found(tensors: dict[str, Tensor]) -> set[int]:
    """Numbers of the layers that have weights, for names like model.layers.3.mlp... or transformer.h.3..."""
    found = set()
    for name in tensors:
        parts = name.split(".")
        for before, part in pairwise(parts):
            if before in ("layers", "h", "blocks") and part.isdigit():
                found.add(int(part))
                break
    return found
