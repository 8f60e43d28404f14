"""Small helpers on number formats."""

import torch


def at_least_float32(tensor: torch.Tensor) -> torch.Tensor:
    """16-bit tensors as float32, wider ones as they are."""
    return tensor if tensor.dtype in (torch.float32, torch.float64) else tensor.float()
