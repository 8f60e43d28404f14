"""How specialists are opened: number format, device and quantisation of each, all checked before anything is loaded."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from ultrafuser.lookup import did_you_mean
from ultrafuser.modeling.placement import check_device
from ultrafuser.modeling.quantisation import check_quantisation, needed_format
from ultrafuser.modeling.specialists import number_format


@dataclass(frozen=True)
class Manner:
    """Settings for all specialists, and by name for some.

    `dtype` is one number format, or {name: format}; then all are held in the widest of them.
    """

    dtype: Any = None
    device: Any = None
    devices: Mapping[str, Any] = field(default_factory=dict)
    quantisation: Mapping[str, str | None] = field(default_factory=dict)

    def check(self, names: Iterable[str]) -> "Manner":
        """The same. Raises ValueError naming field, value and fix for what is unknown, absent or does not fit."""
        names = list(names)
        own = self.dtype if isinstance(self.dtype, Mapping) else {}
        for title, given in (("devices", self.devices), ("quantisation", self.quantisation), ("dtype", own)):
            for name in given:
                if name not in names:
                    raise ValueError(
                        f"{title}.{name}: no such specialist; there are {', '.join(names)}{did_you_mean(name, names)}"
                    )
        if self.device is not None:
            check_device(self.device, "device")
        for name in names:
            where = f"specialists.{name}"
            if self.devices.get(name) is not None:
                check_device(self.devices[name], f"{where}.device")
            dtype = number_format(self._format(name), f"{where}.dtype" if name in own else "dtype")
            check_quantisation(self.quantisation.get(name), f"{where}.quantisation", dtype)
        return self

    def of(self, name: str) -> dict[str, Any]:
        """Keyword arguments of `open_specialist` for one specialist."""
        device = self.devices.get(name)
        return {
            "dtype": self._format(name),
            "device": self.device if device is None else device,
            "quantisation": self.quantisation.get(name),
        }

    def together(self, members: Iterable[str], label: str) -> dict[str, Any]:
        """As `of(label)`, for specialists that share one base: what one of them is given holds for all.

        Raises ValueError where two are given different devices or quantisations.
        """
        members, settings = list(members), self.of(label)
        for field_name, given in (("device", self.devices), ("quantisation", self.quantisation)):
            told = {name: given[name] for name in members if given.get(name) is not None}
            if len(set(map(str, told.values()))) > 1:
                shown = ", ".join(f"{name} {value}" for name, value in told.items())
                raise ValueError(
                    f"specialists.{next(iter(told))}.{field_name}: {shown}, but they share one base; give all the same"
                )
            if told:
                settings[field_name] = next(iter(told.values()))
        return settings

    def _format(self, name: str) -> Any:
        return needed_format(self.quantisation, self.dtype.get(name) if isinstance(self.dtype, Mapping) else self.dtype)

    @property
    def common_format(self) -> Any:
        """The number format that all are held in; None for the widest of those they have."""
        return None if isinstance(self.dtype, Mapping) else number_format(needed_format(self.quantisation, self.dtype))
