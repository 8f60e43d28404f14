"""One colour per specialist, shared by terminal, page and report; told apart with the usual forms of colour blindness.

The palette was searched for the largest smallest distance in OKLab under simulated protanopia, deuteranopia and
tritanopia (matrices of Machado et al., 2009), with contrast against both a white and a black background. It does not
know the reader's screen: wherever a colour is shown, the name or the number stands beside it.
"""

from __future__ import annotations

from collections.abc import Sequence

__all__ = ["NEUTRAL", "PALETTE", "blend", "colour", "dominant", "intensity", "mixture", "shade"]

PALETTE = ("#2f6fe0", "#d2691e", "#2fc0a8", "#895a7d", "#c8c42e", "#a78ff0", "#b63c2e", "#a9bcf2")
NEUTRAL = "#868686"

Triple = tuple[float, float, float]


def colour(index: int) -> str:
    """Hex colour of specialist number `index` (they repeat after eight)."""
    return PALETTE[index % len(PALETTE)]


def dominant(weights: Sequence[float]) -> int:
    """Number of the specialist with the largest weight; the first of equals."""
    return max(range(len(weights)), key=lambda index: (weights[index], -index))


def intensity(weights: Sequence[float]) -> float:
    """How far the largest weight stands above an even share: 0 = all alike, 1 = one specialist alone."""
    if len(weights) == 1:
        return 1.0
    even = 1 / len(weights)
    return min(1.0, max(0.0, (max(weights) - even) / (1 - even)))


def shade(weights: Sequence[float], towards: str = NEUTRAL) -> str:
    """Colour of the strongest specialist, faded to `towards` by how weakly it leads (never wholly: 30% stays)."""
    return blend([colour(dominant(weights)), towards], [0.3 + 0.7 * intensity(weights), 0.7 * (1 - intensity(weights))])


def blend(colours: Sequence[str], weights: Sequence[float]) -> str:
    """Weighted mean of hex colours in OKLab, where equal steps look equal; weights need not sum to one."""
    total = sum(weights)
    if total <= 0:
        raise ValueError(f"weights: {list(weights)} must hold a positive number")
    labs = [_to_oklab(one) for one in colours]
    mean = tuple(sum(w * lab[axis] for w, lab in zip(weights, labs, strict=True)) / total for axis in range(3))
    return _from_oklab((mean[0], mean[1], mean[2]))


def mixture(weights: Sequence[float]) -> str:
    """The palette's colours mixed by the weights of one token."""
    return blend([colour(index) for index in range(len(weights))], weights)


def _to_oklab(hex_colour: str) -> Triple:
    red, green, blue = (_linear(int(hex_colour[start : start + 2], 16) / 255) for start in (1, 3, 5))
    long = _root(0.4122214708 * red + 0.5363325363 * green + 0.0514459929 * blue)
    medium = _root(0.2119034982 * red + 0.6806995451 * green + 0.1073969566 * blue)
    short = _root(0.0883024619 * red + 0.2817188376 * green + 0.6299787005 * blue)
    return (
        0.2104542553 * long + 0.7936177850 * medium - 0.0040720468 * short,
        1.9779984951 * long - 2.4285922050 * medium + 0.4505937099 * short,
        0.0259040371 * long + 0.7827717662 * medium - 0.8086757660 * short,
    )


def _from_oklab(lab: Triple) -> str:
    lightness, a, b = lab
    long = (lightness + 0.3963377774 * a + 0.2158037573 * b) ** 3
    medium = (lightness - 0.1055613458 * a - 0.0638541728 * b) ** 3
    short = (lightness - 0.0894841775 * a - 1.2914855480 * b) ** 3
    channels = (
        4.0767416621 * long - 3.3077115913 * medium + 0.2309699292 * short,
        -1.2684380046 * long + 2.6097574011 * medium - 0.3413193965 * short,
        -0.0041960863 * long - 0.7034186147 * medium + 1.7076147010 * short,
    )
    return "#" + "".join(f"{round(255 * _gamma(min(1.0, max(0.0, value)))):02x}" for value in channels)


def _root(value: float) -> float:
    return max(0.0, value) ** (1 / 3)


def _linear(value: float) -> float:
    return value / 12.92 if value <= 0.04045 else ((value + 0.055) / 1.055) ** 2.4


def _gamma(value: float) -> float:
    return 12.92 * value if value <= 0.0031308 else 1.055 * value ** (1 / 2.4) - 0.055
