"""Theorem 4.2: dimensions, the terms of the bounds, and margin error against attacks."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from linfdist.nn import NetConfig, build_net
from linfdist.robust import interval_certified, pgd
from linfdist.robust.certificates import ROUNDING
from linfdist.theory.generalization import (
    direct_bound,
    direct_size,
    margin_error,
    num_cells,
    num_forms,
    num_parameters,
    paper_bound,
    rademacher_eq16,
    smallest_n,
    vc_direct,
    vc_relu,
)
from linfdist.theory.relu import ReLUSize, relu_size

# --- dimensions and bounds --------------------------------------------------------------------


def test_dimensions_of_the_smallest_nets_by_hand():
    assert (num_parameters((2, 3, 1)), num_forms((2, 3, 1))) == (10, 24)
    assert num_cells(3, 2) == 7 and num_cells(4, 0) == 1
    # 2^n ≤ (e 2n / 2)^2 up to n = 9: 512 ≤ 598.5, but 1024 > 738.9.
    assert vc_direct((1, 1)) == 9
    # One hidden unit: 2^n ≤ 2 (2e n / 2)^2 · 2 (2e n 2 / 4)^4 = 4 (e n)^6 up to n = 43.
    assert vc_relu(ReLUSize(widths=(1, 1, 1), edges=(1, 1))) == 43


@given(width=st.integers(1, 64), layers=st.integers(1, 5))
@settings(max_examples=25, deadline=None)
def test_the_direct_bound_is_the_smaller_and_grows_as_claimed(width, layers):
    widths = (*[width] * layers, 1)
    direct = vc_direct(widths)
    size = relu_size(widths)
    sparse = vc_relu(size, sparse=True)
    assert direct <= sparse <= vc_relu(size)
    # V ≤ 2 P log2(e N) for both: Õ(L² W²).
    assert direct <= 2 * num_parameters(widths) * math.log2(math.e * num_forms(widths)) + 10


def test_rates_in_the_width():
    """Doubling the width: 16 times the ReLU route's dimension and 4 times ours, but for logs."""
    sizes = [(256,) * 4 + (1,), (512,) * 4 + (1,)]
    (a, b), (c, d) = [[vc_relu(relu_size(w)) for w in sizes], [vc_direct(w) for w in sizes]]
    assert 16 < b / a < 20 and 4 < d / c < 5


def test_the_terms_of_the_paper():
    margins = torch.tensor([0.05, 0.15, 0.25, 0.35])
    bound = paper_bound(margins, r=0.1, vc=10, n=10**9, t=2.0)
    n = 10**9
    assert bound.confidence == pytest.approx(2 / math.sqrt(n))
    assert bound.size == pytest.approx(
        48 / bound.delta * math.sqrt(20 * math.log(math.e * n / 10) / n)
    )
    assert bound.margin_error == float((margins <= 0.1 + bound.delta).double().mean())
    assert bound.total == sum(
        (bound.margin_error, bound.size, bound.scale, bound.confidence), start=0.0
    )
    loose = paper_bound(margins, r=0.1, vc=10, n=100, t=2.0)
    assert loose.delta == 1.0 and loose.scale == 0.0 and loose.size > 1
    assert rademacher_eq16(10, 5) == math.sqrt(2)


@given(
    margins=st.lists(st.floats(-2, 2), min_size=1, max_size=20),
    r=st.floats(0, 1),
    exponent=st.integers(1, 12),
)
def test_without_delta_the_bound_is_never_worse(margins, r, exponent):
    """Whatever the margins: the paper's δ only adds to the margin error and divides the size."""
    widths, n = (4, 4, 1), 10**exponent
    margins = torch.tensor(margins, dtype=torch.float64)
    paper = paper_bound(margins, r, vc_direct(widths), n)
    direct = direct_bound(margins, r, widths, n)
    assert direct.margin_error <= paper.margin_error
    assert direct.total <= paper.total


def test_smallest_n_is_where_the_size_falls_below_one():
    n = smallest_n(lambda n: direct_size((8, 8, 1), n))
    assert direct_size((8, 8, 1), n) < 1 <= direct_size((8, 8, 1), n - 1)


# --- Lemma A.5 --------------------------------------------------------------------------------


def test_margin_error_is_above_certified_and_attacked_error():
    torch.manual_seed(0)
    config = NetConfig(kind="net", hidden=(16,), identity_value=None)
    net = build_net(config, input_shape=(1, 4, 4), num_classes=3, mean=(0.5,), std=0.5).eval()
    images = torch.rand(128, 1, 4, 4)
    labels = net(images).argmax(1)
    labels[:10] = (labels[:10] + 1) % 3
    radii = torch.linspace(0, 0.3, 7, dtype=torch.float64)
    # The certificate may fail an image within the rounding of its margin.
    margin = margin_error(net, images, labels, radii + ROUNDING)
    assert margin.shape == radii.shape and (margin.diff() >= 0).all()
    assert margin[0] == 10 / 128 and margin[-1] == 1
    for r, error in zip(radii.tolist(), margin, strict=True):
        certified = 1 - interval_certified(net, images, labels, r).double().mean()
        attacked = 1 - pgd(net, images, labels, r).survived.double().mean()
        assert attacked <= certified <= error
    assert margin_error(net, images, labels, 0.1).shape == ()


def test_without_the_lipschitz_constant_lemma_a5_fails():
    """The margin in the logits' unit is no radius in pixels: PGD goes below it at std < 1."""
    torch.manual_seed(0)
    config = NetConfig(kind="net", hidden=(16,), identity_value=None)
    net = build_net(config, input_shape=(1, 4, 4), num_classes=3, mean=(0.5,), std=0.2).eval()
    images = torch.rand(128, 1, 4, 4)
    labels = net(images).argmax(1)
    r = 0.05
    wrong = margin_error(net, images, labels, r / net.lipschitz)
    assert 1 - pgd(net, images, labels, r).survived.double().mean() > wrong


def test_refusals():
    config = NetConfig(kind="net", hidden=(4,))
    net = build_net(config, input_shape=(1, 2, 2), num_classes=2, mean=(0.5,), std=1.0)
    with pytest.raises(ValueError, match=r"margin_error: r must be at least 0.*got -0\.1.*every"):
        margin_error(net, torch.rand(2, 1, 2, 2), torch.tensor([0, 1]), -0.1)
    with pytest.raises(ValueError, match=r"num_forms: widths must be .*got \(\)"):
        num_forms(())
    with pytest.raises(ValueError, match=r"num_parameters: widths must be .*got \(4,\)"):
        num_parameters((4,))
    for caller, call in (
        ("direct_size", lambda: direct_size((2, 1), 0)),
        ("paper_bound", lambda: paper_bound(torch.zeros(1), 0.0, 3, 0)),
    ):
        with pytest.raises(ValueError, match=rf"{caller}: n must be at least 1.*got 0"):
            call()
