"""The drawn networks show the weights that they are given."""

import pytest
import torch
from matplotlib.figure import Figure

from linfdist.theory import units
from linfdist.theory.plots import MINUS, PLUS, UNUSED, draw_network


def test_a_line_for_each_weight_in_its_color():
    weight, _ = units.maximum(3, 0, 2, offset=2.0, sign=-1, shift=0.25)
    ax = Figure().add_subplot()
    draw_network(ax, [weight[None]], [["a", "b", "c"], ["out"]], offset=2.0)
    lines = {line.get_ydata()[0]: line.get_color() for line in ax.lines}
    assert lines == {1: MINUS, 0: UNUSED, -1: PLUS}
    assert sorted(text.get_text() for text in ax.texts) == ["+0.25", "a", "b", "c", "out"]


def test_names_must_fit():
    with pytest.raises(ValueError, match=r"names must have \[2, 1\] entries.*got \[2, 2\]"):
        draw_network(Figure().add_subplot(), [torch.ones(1, 2)], [["a", "b"], ["c", "d"]], offset=1)
