"""Devices that are not there: tensors that say they lie on "xla:1" and are computed with on the CPU.

As on real devices, an operation on tensors of two devices is an error (but for CPU scalars); so a test can follow where
everything lies in a model whose parts are spread, and compare its numbers. Forward only.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_flatten, tree_map

CPU = torch.device("cpu")


class Placed(torch.Tensor):
    """A CPU tensor that says it lies elsewhere."""

    @staticmethod
    def __new__(cls, inner: torch.Tensor, lies_on: torch.device) -> "Placed":
        made = torch.Tensor._make_wrapper_subclass(cls, inner.shape, strides=inner.stride(), dtype=inner.dtype)
        made.inner, made.lies_on = inner, lies_on
        return made

    @property
    def device(self) -> torch.device:
        """What the test says."""
        return self.lies_on

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return compute(func, args, kwargs or {})


class _Operations(TorchDispatchMode):
    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return compute(func, args, kwargs or {})


class _Moves(TorchFunctionMode):
    """What asks for a device in so many words; PyTorch would look for its driver."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = dict(kwargs or {})
        if func in (torch.tensor, torch.as_tensor):
            device = torch.device(kwargs.pop("device", None) or getattr(args[0], "device", CPU))
            return move(func(here(args[0]), *args[1:], **kwargs), device)
        if func in (torch.Tensor.tolist, torch.Tensor.numpy):
            return func(here(args[0]))
        if func is torch.Tensor.cpu:
            return move(args[0], CPU)
        if func is torch.Tensor.to:
            tensor, *rest = args
            device = kwargs.pop("device", None)
            for i, one in enumerate(rest):
                if isinstance(one, torch.Tensor):
                    device, rest[i] = one.device, one.dtype
                elif isinstance(one, str | torch.device):
                    device = one
            rest = [one for one in rest if not isinstance(one, str | torch.device)]
            cast = func(tensor, *rest, **kwargs) if rest or kwargs else tensor
            return cast if device is None else move(cast, torch.device(device))
        return func(*args, **kwargs)


def move(tensor: torch.Tensor, device: torch.device) -> torch.Tensor:
    """The tensor on another device."""
    return here(tensor) if device.type == "cpu" else Placed(here(tensor), device)


def here(tensor: Any) -> Any:
    """The values, on the CPU."""
    return tensor.inner if isinstance(tensor, Placed) else tensor


def compute(func: Any, args: Any, kwargs: dict[str, Any]) -> Any:
    """Where the tensors lie is checked, the work is done on the CPU, the result lies where they do."""
    tensors = [one for one in tree_flatten((args, kwargs))[0] if isinstance(one, torch.Tensor)]
    devices = {one.device for one in tensors if one.ndim or one.device != CPU}
    if len(devices) > 1 and func is not torch.ops.aten.copy_.default:
        raise RuntimeError(f"{func}: tensors on {sorted(map(str, devices))}")
    asked = kwargs.pop("device", None) if "device" in kwargs else None
    target = tensors[0].device if tensors and len(devices) > 1 else next(iter(devices), asked or CPU)
    inner_args, inner_kwargs = tree_map(here, (args, kwargs))
    result = func(*inner_args, **inner_kwargs)
    if func._schema.is_mutable and tensors:
        return args[0]
    if torch.device(target) == CPU:
        return result
    return tree_map(lambda one: move(one, torch.device(target)) if isinstance(one, torch.Tensor) else one, result)


def place(module: torch.nn.Module, device: str) -> None:
    """Put a module's weights and buffers on a device that is not there, tied ones together."""
    made: dict[int, Any] = {}
    for part in module.modules():
        for table in (part._parameters, part._buffers):
            for name, tensor in table.items():
                if tensor is not None:
                    placed = made.setdefault(id(tensor), Placed(tensor.detach(), torch.device(device)))
                    table[name] = placed


@contextmanager
def made_up_devices() -> Iterator[None]:
    """No gradients, and moves and factories that know these devices."""
    with torch.no_grad(), _Operations(), _Moves():
        yield
