"""The count behind the direct bound: forms, cells and patterns of tiny nets, one by one."""

import itertools
import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from linfdist.theory.generalization import (
    direct_size,
    log2_cells,
    log2_growth,
    num_cells,
    num_forms,
    num_parameters,
)

TINY = [(1, 1), (2, 1), (1, 1, 1), (2, 2, 1), (1, 2, 2), (2, 1, 2, 1)]


# --- many tiny nets at once -------------------------------------------------------------------


def weights(widths, samples, low=-2.0, high=2.0, *, integers=False):
    """``samples`` nets: for each layer weights (samples, out, in) and biases (samples, out)."""
    generator = torch.Generator().manual_seed(sum(widths))
    nets = []
    for inputs, out in itertools.pairwise(widths):
        table = torch.rand(samples, out, inputs + 1, generator=generator, dtype=torch.float64)
        table = low + (high - low) * table
        table = table.round() if integers else table
        nets.append((table[..., :inputs], table[..., inputs]))
    return nets


def outputs(nets, x):
    """Outputs (samples, n, last width) of every net on x, (n, first width)."""
    x = x.expand(len(nets[0][0]), *x.shape)
    for weight, bias in nets:
        x = (x.unsqueeze(2) - weight.unsqueeze(1)).abs().amax(-1) + bias.unsqueeze(1)
    return x


def count(flags):
    """How many different rows."""
    return len(torch.unique(flags.flatten(1), dim=0))


# --- the argument, step by step ---------------------------------------------------------------


def leaf(constant, size):
    return ("form", [0] * size, constant)


def moved(tree, sign, changes):
    """sign · tree + Σ of the parameters named in ``changes``: a minus swaps max and min."""
    kind, body, *rest = tree
    if kind == "form":
        form = [sign * value for value in body]
        for index, value in changes:
            form[index] += value
        return ("form", form, sign * rest[0])
    swap = {"max": "min", "min": "max"}[kind] if sign < 0 else kind
    return (swap, [moved(part, sign, changes) for part in body])


def trees(widths, x):
    """Every output for the input x as a nested max and min of forms in all the parameters."""
    size = sum(out * (inputs + 1) for inputs, out in itertools.pairwise(widths))
    units, start = [leaf(value, size) for value in x], 0
    for inputs, out in itertools.pairwise(widths):
        layer = []
        for k in range(out):
            first = start + k * (inputs + 1)
            layer.append(
                (
                    "max",
                    [
                        moved(units[i], sign, [(first + i, -sign), (first + inputs, 1)])
                        for i in range(inputs)
                        for sign in (1, -1)
                    ],
                )
            )
        units, start = layer, start + out * (inputs + 1)
    return units


def forms(tree):
    if tree[0] == "form":
        return [tree[1:]]
    return [form for part in tree[1] for form in forms(part)]


def evaluate(tree, value_of):
    """The tree with ``value_of`` of each form in its place; True above False."""
    if tree[0] == "form":
        return value_of(tree[1:])
    return {"max": max, "min": min}[tree[0]](evaluate(part, value_of) for part in tree[1])


def flat(nets, sample):
    parts = [torch.cat([w[sample], b[sample, :, None]], 1).flatten() for w, b in nets]
    return torch.cat(parts).tolist()


@pytest.mark.parametrize("widths", TINY)
def test_a_unit_is_a_max_and_min_of_the_forms_and_its_sign_that_of_their_signs(widths):
    """With integers, so that ties and zeros abound and every equality is exact."""
    nets = weights(widths, 40, integers=True)
    x = torch.tensor([[1.0, -2.0][: widths[0]]], dtype=torch.float64)
    values = outputs(nets, x)[:, 0]
    for unit, tree in enumerate(trees(widths, x[0].tolist())):
        for sample in range(40):
            theta = flat(nets, sample)

            def form_value(form, theta=theta):
                return sum(c * p for c, p in zip(form[0], theta, strict=True)) + form[1]

            value = values[sample, unit].item()
            assert evaluate(tree, form_value) == value
            for threshold in (-2, 0, 1):
                above = evaluate(tree, lambda form, t=threshold, f=form_value: f(form) > t)
                assert above == (value > threshold)


@pytest.mark.parametrize("widths", TINY)
def test_forms_enumerated_are_as_many_as_the_formula_says(widths):
    for tree in trees(widths, [1.0, -2.0][: widths[0]]):
        found = forms(tree)
        assert len(found) == len({(*form, constant) for form, constant in found})
        assert len(found) == num_forms(widths)
        assert {value for form, _ in found for value in form} <= {-1, 0, 1}


@pytest.mark.parametrize("widths", TINY)
def test_forms_live_in_as_many_dimensions_as_there_are_parameters_less_hidden_biases(widths):
    every = [form for tree in trees(widths, [1.0, -2.0][: widths[0]]) for form, _ in forms(tree)]
    rank = int(torch.linalg.matrix_rank(torch.tensor(every, dtype=torch.float64)))
    assert rank <= num_parameters(widths) <= len(every[0])


@given(points=st.lists(st.integers(-3, 3), min_size=1, max_size=7))
def test_cells_on_a_line_and_their_bound(points):
    """m points cut a line into m + 1 cells; signs "> 0" and "≤ 0" see no more, ties or not."""
    line = [point / 2 for point in range(-8, 9)]
    seen = {tuple(x - point > 0 for point in points) for x in line}
    assert len(seen) == len(set(points)) + 1 <= num_cells(len(points), 1)


@given(m=st.integers(1, 200), dimension=st.integers(1, 40))
def test_the_bound_of_the_cells_holds(m, dimension):
    exact = math.log2(num_cells(m, dimension))
    assert exact <= log2_cells(math.log2(m), dimension) + 1e-9
    assert num_cells(m, dimension) <= 2**m


# --- patterns that nets make ------------------------------------------------------------------


@pytest.mark.parametrize("n", [3, 6, 10])
def test_one_neuron_on_the_line_makes_the_patterns_of_intervals(n):
    """All 1 + n (n + 1) / 2 of them are met, so the VC dimension is 2; the bound is above."""
    x = torch.linspace(-1, 1, n, dtype=torch.float64)[:, None]
    patterns = count(outputs(weights((1, 1), 60_000, -1.5, 1.5), x) > 0)
    assert patterns == 1 + n * (n + 1) // 2
    assert patterns <= num_cells(n * num_forms((1, 1)), num_parameters((1, 1)))
    # A planted fault: without the bias among the parameters the bound is false.
    assert n < 4 or patterns > num_cells(n * num_forms((1, 1)), 1)


@pytest.mark.parametrize("widths", [(1, 1), (2, 1), (1, 1, 1), (2, 2, 1), (1, 2, 1, 1)])
@pytest.mark.parametrize("n", [4, 8, 12])
def test_patterns_never_exceed_the_cells(widths, n):
    """Signs, signs at a threshold for each input (pseudo-dimension), and margins at any τ."""
    generator = torch.Generator().manual_seed(n)
    x = 2 * torch.rand(n, widths[0], generator=generator, dtype=torch.float64) - 1
    values = outputs(weights(widths, 20_000), x)[..., 0]
    forms, dimension = n * num_forms(widths), num_parameters(widths)
    thresholds = torch.randn(n, generator=generator, dtype=torch.float64)
    assert count(values > 0) <= num_cells(forms, dimension)
    assert count(values > thresholds) <= num_cells(forms, dimension)
    y = torch.randint(0, 2, (n,), generator=generator) * 2 - 1
    tau = torch.randn(len(values), 1, generator=generator, dtype=torch.float64)
    assert count(y * values <= tau) <= num_cells(forms, dimension + 1)
    assert math.log2(count(y * values <= tau)) <= log2_growth(widths, n)


def test_patterns_of_the_margins_of_many_classes_never_exceed_the_cells():
    n, widths = 6, (1, 1, 3)
    x = torch.linspace(-1, 1, n, dtype=torch.float64)[:, None]
    logits = -outputs(weights(widths, 20_000), x)
    y = torch.arange(n) % 3
    own = logits[:, torch.arange(n), y]
    others = logits.scatter(2, y.view(1, n, 1).expand(len(logits), n, 1), -math.inf)
    tau = torch.randn(len(logits), 1, dtype=torch.float64)
    patterns = count(own - others.amax(2) <= tau)
    assert 2 < patterns <= num_cells(n * 2 * num_forms(widths) ** 2, num_parameters(widths) + 1)
    assert math.log2(patterns) <= log2_growth(widths, n)


def test_the_uniform_bound_holds_on_a_class_that_can_be_searched():
    """20,000 neurons: the largest gap of true and sampled margin error is below size + t / √n."""
    generator = torch.Generator().manual_seed(0)

    def sample(n):
        x = torch.rand(n, 2, generator=generator, dtype=torch.float64)
        return x, torch.where((x - 0.5).abs().amax(1) < 0.3, -1.0, 1.0).double()

    def errors(nets, r, x, y):
        parts = zip(x.split(500), y.split(500), strict=True)
        return sum((b * outputs(nets, a)[..., 0] <= r).sum(1) for a, b in parts) / len(x)

    nets = weights((2, 1), 2000, -1, 1)
    for n in (50, 500):
        for r in (0.0, 0.1):
            truth, sampled = errors(nets, r, *sample(20_000)), errors(nets, r, *sample(n))
            assert (truth - sampled).max() <= direct_size((2, 1), n) + 1.5 / math.sqrt(n)
