"""The palette stays told apart under simulated colour blindness, and the mixing behaves."""

from itertools import combinations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ultrafuser.analysis import colours

# Linear-RGB simulation of complete dichromacy (Machado, Oliveira and Fernandes, 2009), and normal sight.
SIGHT = {
    "normal": [[1, 0, 0], [0, 1, 0], [0, 0, 1]],
    "protanopia": [[0.152286, 1.052583, -0.204868], [0.114503, 0.786281, 0.099216], [-0.003882, -0.048116, 1.051998]],
    "deuteranopia": [[0.367322, 0.860646, -0.227968], [0.280085, 0.672501, 0.047413], [-0.01182, 0.04294, 0.968881]],
    "tritanopia": [[1.255528, -0.076749, -0.178779], [-0.078411, 0.930809, 0.147602], [0.004733, 0.691367, 0.3039]],
}


def linear(colour):
    channels = np.array([int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)])
    return np.where(channels <= 0.04045, channels / 12.92, ((channels + 0.055) / 1.055) ** 2.4)


def oklab(rgb):
    rgb = np.clip(rgb, 0, 1)
    lms = np.cbrt(
        np.array(
            [
                [0.4122214708, 0.5363325363, 0.0514459929],
                [0.2119034982, 0.6806995451, 0.1073969566],
                [0.0883024619, 0.2817188376, 0.6299787005],
            ]
        )
        @ rgb
    )
    return (
        np.array(
            [
                [0.2104542553, 0.7936177850, -0.0040720468],
                [1.9779984951, -2.4285922050, 0.4505937099],
                [0.0259040371, 0.7827717662, -0.8086757660],
            ]
        )
        @ lms
    )


def smallest_distance(palette):
    return min(
        float(np.linalg.norm(oklab(np.array(matrix) @ linear(a)) - oklab(np.array(matrix) @ linear(b))))
        for matrix in SIGHT.values()
        for a, b in combinations(palette, 2)
    )


def contrast(a, b):
    low, high = sorted(float(linear(c) @ [0.2126, 0.7152, 0.0722]) for c in (a, b))
    return (high + 0.05) / (low + 0.05)


def test_palette_is_told_apart_with_any_sight():
    assert smallest_distance(colours.PALETTE[:3]) > 0.15
    assert smallest_distance(colours.PALETTE) > 0.09


def test_the_measure_sees_a_bad_palette():
    assert smallest_distance(["#2ca02c", "#d62728", "#1f77b4"]) < 0.1  # green and red, a usual default


@pytest.mark.parametrize("colour", colours.PALETTE)
def test_colours_are_seen_on_black_and_on_white(colour):
    assert contrast(colour, "#000000") > 3.5
    assert contrast(colour, "#ffffff") > 1.75


def test_a_blend_of_one_colour_is_that_colour():
    for colour in colours.PALETTE:
        assert colours.blend([colour], [0.3]) == colour


@given(st.lists(st.floats(0.01, 1), min_size=1, max_size=10))
def test_mixture_is_a_colour_whatever_the_weights(weights):
    total = sum(weights)
    mixed = colours.mixture([w / total for w in weights])
    assert len(mixed) == 7
    int(mixed[1:], 16)


def test_mixture_leans_to_the_larger_weight():
    strong = colours.mixture([0.9, 0.1])
    a, b = (oklab(linear(colours.colour(j))) for j in (0, 1))
    mixed = oklab(linear(strong))
    assert np.linalg.norm(mixed - a) < 0.3 * np.linalg.norm(mixed - b)


def test_intensity_and_dominant():
    assert colours.intensity([1 / 3, 1 / 3, 1 / 3]) == pytest.approx(0)
    assert colours.intensity([0, 1, 0]) == 1
    assert colours.intensity([1.0]) == 1
    assert colours.dominant([0.2, 0.5, 0.3]) == 1
    assert colours.dominant([0.4, 0.4, 0.2]) == 0


def test_shade_pales_as_the_lead_shrinks():
    full, weak = (oklab(linear(colours.shade(w))) for w in ([0, 1, 0], [0.3, 0.4, 0.3]))
    grey = oklab(linear(colours.NEUTRAL))
    assert colours.shade([0, 1, 0]) == colours.colour(1)
    assert 0 < np.linalg.norm(weak - grey) < 0.6 * np.linalg.norm(full - grey)


def test_weights_that_sum_to_nothing_are_refused():
    with pytest.raises(ValueError, match="weights"):
        colours.blend(["#000000"], [0.0])
