"""The rooflines are those of the arithmetic that the book prints."""

import math
from dataclasses import replace

import pytest

from linfdist.bench import roofline
from linfdist.bench.roofline import Instructions

H100 = roofline.Hardware(
    capability="9.0", multiprocessors=132, clock_mhz=1750.0, bandwidth_gb_per_second=3000.0
)


@pytest.mark.parametrize(
    ("p", "backward", "cost"),
    [
        (math.inf, False, Instructions(fma=1, min_max=1)),
        (math.inf, True, None),
        (1.0, False, Instructions(fma=2)),  # a subtraction and a sum
        (2.0, False, Instructions(fma=2)),
        (2.0, True, Instructions(fma=3)),
        (8.0, False, Instructions(fma=4)),  # d², d⁴, and d⁴ · d⁴ into the sum
        (8.0, True, Instructions(fma=7)),  # c d, its square, cube and fourth power, and two sums
        (8.7, False, Instructions(fma=3, special=2)),
        (8.7, True, Instructions(fma=4, special=2)),
        (100.0, False, Instructions(fma=9)),
        (1000.0, False, Instructions(fma=15)),
    ],
)
def test_instructions_of_a_pair(p, backward, cost):
    assert roofline.instructions(p, backward, "9.0") == cost


@pytest.mark.parametrize(
    ("p", "tera"), [(math.inf, 14.8), (8.0, 7.39), (8.7, 1.85), (1000.0, 1.97)]
)
def test_an_h100s_forward_pass(p, tera):
    rate = roofline.pairs_per_second(p, False, H100)
    assert rate / 1e12 == pytest.approx(tera, rel=0.005)


def test_a_long_chain_of_multiplications_gives_way_to_special_functions():
    assert roofline.instructions(100.0, True, "9.0").special == 0
    assert roofline.instructions(1000.0, True, "9.0").special == 2
    real = roofline.pairs_per_second(8.7, True, H100)
    assert roofline.pairs_per_second(1000.0, True, H100) == real


@pytest.mark.parametrize(
    "unknown", [None, replace(H100, clock_mhz=None), replace(H100, capability="7.5")]
)
@pytest.mark.parametrize("p", [math.inf, 8.0, 8.7])
def test_no_roofline_where_a_rate_is_unknown(unknown, p):
    assert roofline.pairs_per_second(p, False, unknown) is None
    assert roofline.least_seconds(1e12, p, True, unknown) is None


def test_forward_and_backward_take_both_times_and_at_infinity_the_forward_pass_alone():
    forward, backward = (roofline.pairs_per_second(8.0, b, H100) for b in (False, True))
    both = roofline.least_seconds(1e12, 8.0, True, H100)
    assert both == pytest.approx(1e12 / forward + 1e12 / backward)
    infinite = [roofline.least_seconds(1e12, math.inf, b, H100) for b in (False, True)]
    assert infinite[0] == infinite[1]
