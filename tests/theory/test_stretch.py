"""Remark 3.5: the worst-case constants are bounds, and they are attained."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from linfdist.nn import LpDist, NetConfig, build_net
from linfdist.ops import lp_dist, lse_dist
from linfdist.theory.stretch import counter_example, lipschitz_constant, local_lipschitz

WIDTHS = st.lists(st.integers(2, 9), min_size=3, max_size=6)
POWERS = st.sampled_from([1.0, 1.5, 2.0, 8.0, 60.0, 1000.0])
SEEDS = st.integers(0, 2**32 - 1)


def norms(p: float) -> tuple[float, ...]:
    return p, 2 * p, math.inf


def length(rows, norm):
    """The l_q norm of each row; torch's own is 0 or NaN at q = 1000."""
    rows = rows.flatten(1)
    return lp_dist(rows, torch.zeros_like(rows[:1]), norm).squeeze(1)


def attained(widths, p, norm) -> float:
    """How far the counter-example stretches the distance of its two images."""
    example = counter_example(widths, p)
    with torch.no_grad():
        moved = example.net(example.x, p) - example.net(example.other, p)
    return float(length(moved, norm) / length(example.x - example.other, norm))


def random_net(widths, seed, magnitude):
    """A net of Gaussian weights and running means, in float64."""
    inputs, *hidden, outputs = widths
    config = NetConfig(kind="net", hidden=tuple(hidden), identity_value=None)
    generator = torch.Generator().manual_seed(seed)
    shape = (1, 1, inputs)
    net = build_net(config, input_shape=shape, num_classes=outputs, mean=[0.0], std=1.0).double()
    with torch.no_grad():
        for name, value in net.state_dict().items():
            if "normalize" in name:
                continue
            value.copy_(magnitude * torch.randn(value.shape, generator=generator))
    x, y = torch.rand(2, 16, *shape, generator=generator, dtype=torch.float64)
    return net.eval(), x, x + 10 ** float(torch.randn((), generator=generator)) * (y - x)


def check_attained(constant):
    """That ``constant`` is what the counter-examples attain."""
    for widths in ([5, 3, 2], [2, 7, 3, 4], [6, 2, 2, 5, 3]):
        for p in (1.0, 2.0, 8.0):
            for norm in norms(p):
                assert attained(widths, p, norm) == pytest.approx(constant(widths, p, norm))


def check_bound(constant):
    """That random nets stay below ``constant``, and small ones come near it."""
    for seed in range(5):
        for p in (1.0, 2.0, 8.0):
            net, x, y = random_net([5, 3, 4, 2], seed, magnitude=0.0 if seed == 0 else 1.0)
            if seed == 0:
                x, y = torch.ones_like(x[:1]), 2 * torch.ones_like(x[:1])
            with torch.no_grad():
                moved = net(x, p) - net(y, p)
            for norm in norms(p):
                ratio = length(moved, norm) / length(x - y, norm)
                assert ratio.max() <= constant([5, 3, 4, 2], p, norm) * (1 + 1e-9)


# --- the constant -----------------------------------------------------------------------------


@settings(deadline=None, max_examples=60)
@given(widths=WIDTHS, p=POWERS)
def test_the_counter_example_attains_the_constant(widths, p):
    for norm in norms(p):
        constant = lipschitz_constant(widths, p, norm)
        assert attained(widths, p, norm) == pytest.approx(constant, rel=1e-9)


@settings(deadline=None, max_examples=60)
@given(widths=WIDTHS, p=POWERS, seed=SEEDS, magnitude=st.sampled_from([0.0, 0.1, 1.0, 10.0]))
def test_no_net_stretches_further(widths, p, seed, magnitude):
    net, x, y = random_net(widths, seed, magnitude)
    with torch.no_grad():
        moved = net(x, p) - net(y, p)
    for norm in norms(p):
        limit = lipschitz_constant(widths, p, norm) * length(x - y, norm)
        assert (length(moved, norm) <= limit * (1 + 1e-9) + 1e-12).all()


def test_both_checks_hold_of_the_formula():
    check_attained(lipschitz_constant)
    check_bound(lipschitz_constant)


FAULTS = {
    "first layer left out": lambda widths, p, q: lipschitz_constant(widths[1:], p, q),
    "last layer left out": lambda widths, p, q: lipschitz_constant(widths[:-1], p, q),
    "dual exponent": lambda widths, p, q: lipschitz_constant(
        widths, p / (p - 1) if p > 1 else math.inf, math.inf
    ),
    "p + 1": lambda widths, p, q: lipschitz_constant(widths, p + 1, max(q, p + 1)),
    "l_inf at every norm": lambda widths, p, q: lipschitz_constant(widths, p),
    "outputs for inputs": lambda widths, p, q: lipschitz_constant(widths[::-1], p, q),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_planted_fault_is_found(fault):
    with pytest.raises(AssertionError):
        check_attained(FAULTS[fault])


@pytest.mark.parametrize("fault", ["first layer left out", "last layer left out", "p + 1"])
def test_a_constant_that_is_too_small_breaks_the_bound(fault):
    with pytest.raises(AssertionError):
        check_bound(FAULTS[fault])


def test_a_single_neuron_is_1_lipschitz_in_lp_and_a_layer_is_not():
    for p in (1.0, 2.0, 8.0):
        assert lipschitz_constant((784, 1), p, p) == pytest.approx(1)
        assert lipschitz_constant((784, 10), p, p) == pytest.approx(10 ** (1 / p))
        assert lipschitz_constant((784, 1), p) == pytest.approx(784 ** (1 / p))
        layer = LpDist(7, 10, identity_value=None, dtype=torch.float64)
        torch.nn.init.zeros_(layer.weight)
        x = torch.randn(7, dtype=torch.float64)
        moved = layer(2 * x, p) - layer(x, p)
        assert moved.norm(p).item() == pytest.approx(10 ** (1 / p) * x.norm(p).item())


def test_at_infinity_the_constant_is_1():
    """Fact 3.4, and the net that was the counter-example is none."""
    assert lipschitz_constant((784, 5120, 5120, 10), math.inf) == 1
    assert attained((16, 9, 4), math.inf, math.inf) == pytest.approx(1)


def test_the_constants_of_the_paper_s_nets():
    mnist, cifar10 = (784, *(5120,) * 4, 10), (3072, *(5120,) * 5, 10)
    assert lipschitz_constant(mnist, 8.0) == pytest.approx((784 * 5120**4) ** (1 / 8))
    assert 164 < lipschitz_constant(mnist, 8.0) < 165
    assert 567 < lipschitz_constant(cifar10, 8.0) < 568
    assert 1.041 < lipschitz_constant(mnist, 1000.0) < 1.042
    assert 1.052 < lipschitz_constant(cifar10, 1000.0) < 1.053


# --- what goes wrong with a certificate ---------------------------------------------------------


@pytest.mark.parametrize("p", [1.0, 2.0, 8.0])
def test_half_the_margin_is_no_certificate_at_finite_p(p):
    """The class changes at 1/4; half the margin promises λ / 4, half the margin over λ 1/4."""
    widths = (12, 9, 6, 3)
    example = counter_example(widths, p)
    logits = example.net(example.x, p).detach()
    margin = float(logits[0, 0] - logits[0, 1])
    assert margin / 2 == pytest.approx(lipschitz_constant(widths, p) / 4)
    step = 0.2501
    assert step < margin / 2
    assert example.net(example.x, p).argmax(1) == 0
    assert example.net(example.x + step, p).argmax(1) == 1
    assert example.net(example.other, p).argmax(1) == 1
    with torch.no_grad():
        level = example.net((example.x + example.other) / 2, p)[0]
    torch.testing.assert_close(level[0], level[1])


# --- the measured constant --------------------------------------------------------------------


def test_local_lipschitz_is_the_norm_of_the_jacobian():
    matrix = torch.tensor([[1.0, -2.0, 0.5], [0.0, 3.0, 1.0]], dtype=torch.float64)
    x = torch.randn(4, 3, 1, dtype=torch.float64)
    found = {q: local_lipschitz(lambda x: x.flatten(1) @ matrix.T, x, q) for q in (1, 2, math.inf)}
    torch.testing.assert_close(found[1], torch.full((4,), 5.0, dtype=torch.float64))
    torch.testing.assert_close(found[math.inf], torch.full((4,), 4.0, dtype=torch.float64))
    largest = torch.linalg.svdvals(matrix)[0]
    torch.testing.assert_close(found[2], largest.expand(4))


@settings(deadline=None, max_examples=40)
@given(widths=WIDTHS, seed=SEEDS)
def test_measured_constants_stay_below_the_worst_case(widths, seed):
    net, x, _ = random_net(widths, seed, 1.0)
    for p, q in ((1.0, 1), (1.0, 2), (1.0, math.inf), (2.0, 2), (2.0, math.inf), (8.0, math.inf)):
        found = local_lipschitz(lambda x, p=p: net(x, p), x, q)
        assert found.max() <= lipschitz_constant(widths, p, q) * (1 + 1e-9)
    assert local_lipschitz(net, x).max() <= 1 + 1e-12


@settings(deadline=None, max_examples=40)
@given(seed=SEEDS, t=st.floats(0.01, 500), features=st.integers(1, 60))
def test_log_sum_exp_is_1_lipschitz_at_every_t(seed, t, features):
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(8, features, generator=generator, dtype=torch.float64)
    w = torch.randn(5, features, generator=generator, dtype=torch.float64)
    assert local_lipschitz(lambda x: lse_dist(x, w, t), x).max() <= 1 + 1e-9
    assert local_lipschitz(lambda x: lp_dist(x, w, 1.0), x).max() == pytest.approx(features)


# --- errors -----------------------------------------------------------------------------------


def test_what_is_refused():
    with pytest.raises(ValueError, match=r"norm must be at least p=8; got 2.*no net attains"):
        lipschitz_constant((4, 4), 8.0, 2.0)
    with pytest.raises(ValueError, match=r"lipschitz_constant: p must be in \[1, inf\].*p=0.5"):
        lipschitz_constant((4, 4), 0.5)
    with pytest.raises(ValueError, match=r"widths must be at least 2 positive numbers.*\(4,\)"):
        lipschitz_constant((4,), 2.0)
    with pytest.raises(ValueError, match=r"widths must be at least 3 positive.*\(4, 0, 2\)"):
        counter_example((4, 0, 2), 2.0)
    with pytest.raises(ValueError, match=r"end in at least 2 outputs; got \(4, 4, 1\).*logit"):
        counter_example((4, 4, 1), 2.0)
    with pytest.raises(ValueError, match=r"counter_example: p must be in \[1, inf\]"):
        counter_example((4, 4, 2), 0.0)
    with pytest.raises(ValueError, match="norm must be 1, 2 or inf; got 8"):
        local_lipschitz(lambda x: x, torch.zeros(1, 1), 8)
