"""Which part of a fused model lies on which device."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch

__all__ = ["Placement", "check_device", "dispatch", "read_device_map"]

STRATEGIES = ("auto", "balanced", "balanced_low_0", "sequential")


@dataclass(frozen=True)
class Placement:
    """Devices of the specialists (of a group of them) by number and of the gate, None where not said; or a map for
    Accelerate to carry out.

    `spread` is a strategy ("auto") or a map finer than whole specialists; `limits` are Accelerate's settings for it.
    """

    specialists: Mapping[int, Any] = field(default_factory=dict)
    gate: Any = None
    spread: str | dict[str, Any] | None = None
    limits: Mapping[str, Any] = field(default_factory=dict)

    def of(self, j: int) -> Any:
        """Device to open specialist (or group) j on; None where it is not said or comes later."""
        return self.specialists.get(j)


def check_device(device: Any, name: str) -> torch.device:
    """The device. Raises ValueError naming `name` for one that is unknown or not on this machine."""
    try:
        found = torch.device(device)
    except (RuntimeError, TypeError) as error:
        raise ValueError(f"{name}: {device!r} is no device; write cpu, cuda, cuda:1 or mps") from error
    here = {"cpu": 1, "meta": 1, "mps": int(torch.backends.mps.is_available()), "cuda": torch.cuda.device_count()}
    if found.type == "xpu":
        here["xpu"] = torch.xpu.device_count()
    if (found.index or 0) >= here.get(found.type, 1):
        cards = [f"cuda:{i}" for i in range(here["cuda"])] + ["mps"] * here["mps"]
        raise ValueError(f"{name}: {str(device)!r} is not on this machine; there is {', '.join([*cards, 'cpu'])}")
    return found


def read_device_map(options: dict[str, Any], names: Sequence[str]) -> Placement:
    """Take `device_map` and what goes with it out of Transformers' keyword arguments; `names` are those of the groups.

    Raises ValueError for devices that are not here and for parts that the model does not have.
    """
    given = options.pop("device_map", None)
    limits = {
        name: value
        for name in ("max_memory", "offload_folder", "offload_buffers")
        if (value := options.pop(name, None)) is not None
    }
    if given is None:
        return Placement()
    if isinstance(given, str) and given in STRATEGIES:
        return Placement(spread=given, limits=limits)
    if not isinstance(given, Mapping):
        given = {"": given}
    parts = {name: j for j, name in enumerate(names)}
    for part in given:
        if part and part.partition(".")[0] not in (*parts, "gate"):
            raise ValueError(f"device_map: no part {part!r}; there are {', '.join([*parts, 'gate'])}")
    if any("." in part for part in given) or "disk" in given.values():
        return Placement(spread=dict(given), limits=limits)
    found = {part: check_device(device, f"device_map[{part!r}]") for part, device in given.items()}
    everywhere = found.get("")
    devices = {j: found.get(part, everywhere) for part, j in parts.items()}
    return Placement({j: device for j, device in devices.items() if device is not None}, found.get("gate", everywhere))


def dispatch(model: Any, placement: Placement) -> Any:
    """The model spread over the devices by Accelerate where that was asked for; it moves tensors through hooks then."""
    if placement.spread is None:
        return model
    from accelerate import dispatch_model, infer_auto_device_map
    from accelerate.utils import get_balanced_memory

    limits, spread = dict(placement.limits), placement.spread
    whole = list(model._no_split_modules or ())
    if isinstance(spread, str):
        memory = limits.get("max_memory")
        if spread != "sequential":
            memory = get_balanced_memory(
                model, memory, no_split_module_classes=whole, low_zero=spread == "balanced_low_0"
            )
        spread = dict(infer_auto_device_map(model, max_memory=memory, no_split_module_classes=whole))
    if len(set(spread.values())) == 1 and "disk" not in spread.values():
        return model.to(next(iter(spread.values())))
    return dispatch_model(
        model,
        spread,
        offload_dir=limits.get("offload_folder"),
        offload_buffers=bool(limits.get("offload_buffers")),
        skip_keys=model._skip_keys_device_placement,
    )
