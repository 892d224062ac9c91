"""Theorem 4.2 with every constant: the training margins bound the robust test error.

The direct bound is ours. The book's chapter "Margins and robust test error" has the proofs.

For a fixed input, a unit of layer l is a nested maximum and minimum of N_l = Π_{i≤l} 2 d_{i−1}
forms ±x_k ± w ± … ± w + b. The forms are affine in the parameters, with coefficients 0 and ±1. The
signs of its forms therefore decide whether an output exceeds a threshold. For n inputs, n N_L
hyperplanes in the space of the parameters decide. There are at most as many patterns as cells into
which these hyperplanes cut the space.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from fractions import Fraction
from itertools import accumulate, pairwise

import torch
from torch import Tensor

from linfdist.nn import LinfDistNet
from linfdist.robust import margin_radius
from linfdist.system.inputs import check_function, finite, float_tensor, positive, real
from linfdist.system.values import shown, whole
from linfdist.theory.relu import ReLUSize, check_widths

# --- number of patterns, and the VC dimension -------------------------------------------------


def num_parameters(widths: Sequence[int]) -> int:
    """The effective parameters of an l_inf-dist net of ``widths``: the weights and last biases.

    A hidden bias occurs only as w − b with a weight of the next layer, so it adds no functions.
    ``widths`` are the input's width, then every layer's.
    """
    widths = check_widths(widths, "num_parameters")
    return sum(inputs * out for inputs, out in pairwise(widths)) + widths[-1]


def num_forms(widths: Sequence[int]) -> int:
    """N_L = Π_l 2 d_{l−1}: for a fixed input, an output is one of this number of affine forms."""
    widths = check_widths(widths, "num_forms")
    return math.prod(2 * inputs for inputs in widths[:-1])


def num_cells(hyperplanes: int, dimension: int) -> int:
    """Σ_{i≤P} C(m, i): the largest number of cells into which m hyperplanes cut R^P.

    The number also bounds the sign vectors of m affine forms on R^P, where each sign is "> 0" or
    "≤ 0". To see this, subtract a small enough constant from all forms: those that are 0 become
    negative.
    """
    hyperplanes = whole(hyperplanes, "num_cells: hyperplanes", least=0)
    dimension = whole(dimension, "num_cells: dimension", least=0)
    return sum(math.comb(hyperplanes, i) for i in range(dimension + 1))


def log2_cells(log2_hyperplanes: float, dimension: int) -> float:
    """A bound of log2 ``num_cells``: P log2(e m / P) for m ≥ P, and m for m < P."""
    log2_hyperplanes = finite(log2_hyperplanes, "log2_cells", "log2_hyperplanes")
    dimension = whole(dimension, "log2_cells: dimension", least=1)
    if log2_hyperplanes < math.log2(dimension):
        return 2**log2_hyperplanes
    return dimension * (math.log2(math.e / dimension) + log2_hyperplanes)


def log2_growth(widths: Sequence[int], n: int) -> float:
    """A bound of log2 of the number of patterns {margin ≤ τ} on n examples.

    The patterns range over all nets of ``widths`` and all τ. The bound is the smaller of n and
    ``log2_cells`` of n N hyperplanes in R^(P+1), where τ is one more parameter. A binary net with
    one output has N = N_L. With M outputs the margin is the least g_y − g_k, and N = (M − 1) N_L².
    """
    widths, n = check_widths(widths, "log2_growth"), whole(n, "log2_growth: n", least=1)
    outputs = widths[-1]
    forms = math.log2(num_forms(widths))
    forms = forms if outputs == 1 else 2 * forms + math.log2(outputs - 1)
    return min(n, log2_cells(math.log2(n) + forms, num_parameters(widths) + 1))


def vc_direct(widths: Sequence[int]) -> int:
    """A bound of the VC dimension of the signs of one output: the largest n with 2^n ≤ cells.

    The cells are those of at most n N_L hyperplanes in R^P. The bound is O(P log N_L) = Õ(L² W²).
    It holds for the pseudo-dimension as well: a threshold per input only shifts its forms.
    """
    widths = check_widths(widths, "vc_direct")
    forms, dimension = math.log2(num_forms(widths)), num_parameters((*widths[:-1], 1))
    return _largest(lambda n: n <= log2_cells(math.log2(n) + forms, dimension))


def vc_relu(size: ReLUSize, *, sparse: bool = False) -> int:
    """A bound of the VC dimension of a ReLU architecture, by the argument of [Bartlett2019].

    The bound is the largest n with 2^n ≤ Π_i 2 (2e n k_i i / W_i)^{W_i}. Layer i has k_i units, and
    the layers up to i have W_i parameters. The factor is 2^(n k_i) if n k_i < W_i. As long as the
    activations up to layer i − 1 do not change, the inputs of layer i are polynomials of degree i
    in W_i parameters. ``sparse`` counts only the weights that the construction uses. The last layer
    counts as one output.
    """
    if not isinstance(size, ReLUSize):
        raise TypeError(
            f"vc_relu: size must be a ReLUSize; got {shown(size)}. Pass the result of relu_size."
        )
    layers = size.sparse_layer_parameters if sparse else size.layer_parameters
    outputs = size.widths[-1]
    totals = list(accumulate((*layers[:-1], layers[-1] // outputs)))
    units = (*size.widths[1:-1], 1)

    def growth(n: int) -> float:
        return sum(
            1 + w * math.log2(2 * math.e * n * k * i / w) if n * k >= w else n * k
            for i, (k, w) in enumerate(zip(units, totals, strict=True), start=1)
        )

    return _largest(lambda n: n <= growth(n))


def _largest(holds: Callable[[int], bool]) -> int:
    """The largest n with holds(n); ``holds`` is true from 1 to some n and false after it."""
    low, high = 1, 2
    while holds(high):
        low, high = high, 2 * high
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if holds(middle) else (low, middle)
    return low


# --- the bounds -------------------------------------------------------------------------------


def margin_error(
    net: LinfDistNet, images: Tensor, labels: Tensor, r: Fraction | float | Tensor
) -> Tensor:
    """The share of images whose margin / 2 / ``net.lipschitz`` is at most r: Lemma A.5's β_r.

    It is at least the share of images that some perturbation of l_inf norm at most r makes wrong.
    Images and r ≥ 0 are in pixels. r is a number or a tensor; the result has its shape, in float64.
    """
    if isinstance(r, Tensor):
        r = float_tensor(r, "margin_error", "r").detach().double()
    else:
        r = torch.tensor(real(r, "margin_error", "r"), dtype=torch.float64, device="cpu")
    if not bool((r >= 0).all()):
        raise ValueError(
            f"margin_error: r must be at least 0, in pixels; got {float(r.min())}. A margin below "
            "0 is a wrong prediction, which counts at every radius."
        )
    radii = margin_radius(net, images, labels)
    return (radii <= r.to(radii.device).unsqueeze(-1)).double().mean(-1)


def rademacher_eq16(vc: float, n: float) -> float:
    """√(2 V log(e n / V) / n), at least √2 for n < V  [Zhang2021, Eq. 16]; for signs only."""
    vc, n = positive(vc, "rademacher_eq16", "vc"), positive(n, "rademacher_eq16", "n")
    return math.sqrt(2 * vc * math.log(math.e * n / vc) / n) if n >= vc else math.sqrt(2)


@dataclass(frozen=True, kw_only=True)
class MarginBound:
    """The terms of Theorem 4.2 at one δ; it holds with probability 1 − 2 exp(−2t²)."""

    delta: float
    margin_error: float
    size: float
    scale: float
    confidence: float

    @property
    def total(self) -> float:
        return self.margin_error + self.size + self.scale + self.confidence


def paper_bound(margins: Tensor, r: float, vc: float, n: int, t: float = 1.5) -> MarginBound:
    """Theorem 4.2 as printed, minimised over a grid of δ in (0, 1].

    The terms are the share of margins ≤ δ + r, 48 ``rademacher_eq16`` / δ, √(log log2(2/δ) / n) and
    t/√n. Logarithms without a base are natural.

    Args:
        margins: y g(x) of the training examples, any shape.
        r: the radius, in the unit of the margins.
        vc: the VC dimension.
        n: the number of training examples.
        t: sets the probability, 1 − 2 exp(−2t²).
    """
    n = _sample(n, "paper_bound")
    margins = _margins(margins, "paper_bound")
    r, t = finite(r, "paper_bound", "r"), finite(t, "paper_bound", "t")
    vc = positive(vc, "paper_bound", "vc")

    def at(delta: float) -> MarginBound:
        # log2(2/δ) ≥ 1, so the root is real.
        return MarginBound(
            delta=delta,
            margin_error=float((margins <= delta + r).double().mean()),
            size=48 / delta * rademacher_eq16(vc, n),
            scale=math.sqrt(math.log(math.log2(2 / delta)) / n),
            confidence=t / math.sqrt(n),
        )

    return min((at(step / 100) for step in range(1, 101)), key=lambda bound: bound.total)


def direct_size(widths: Sequence[int], n: int) -> float:
    """√(2 log Π(n) / n), the size term of our bound; ``log2_growth`` gives log2 Π(n)."""
    widths, n = check_widths(widths, "direct_size"), _sample(n, "direct_size")
    return math.sqrt(2 * math.log(2) * log2_growth(widths, n) / n)


def direct_bound(
    margins: Tensor, r: float, widths: Sequence[int], n: int, t: float = 1.5
) -> MarginBound:
    """Our bound: the share of margins ≤ r, plus ``direct_size``, plus t/√n.

    It has no δ and holds for all r and g at once. With probability at least 1 − exp(−2t²) the
    r-robust test error is below it.

    Args:
        margins: y g(x), or margin / 2 / Lipschitz constant, in the unit of r.
        r: the radius.
        widths: the input's width, then every layer's.
        n: the number of training examples.
        t: sets the probability.
    """
    n = _sample(n, "direct_bound")
    margins = _margins(margins, "direct_bound")
    r, t = finite(r, "direct_bound", "r"), finite(t, "direct_bound", "t")
    widths = check_widths(widths, "direct_bound")
    return MarginBound(
        delta=0.0,
        margin_error=float((margins <= r).double().mean()),
        size=direct_size(widths, n),
        scale=0.0,
        confidence=t / math.sqrt(n),
    )


def smallest_n(size_term: Callable[[int], float]) -> int:
    """The smallest n at which a size term, decreasing in n, is below 1 and so informative."""
    check_function(size_term, "smallest_n", "size_term")
    return _largest(lambda n: size_term(n) >= 1) + 1


def _sample(n: int, caller: str) -> int:
    n = whole(n, f"{caller}: n", least=None)
    if n < 1:
        raise ValueError(f"{caller}: n must be at least 1, the size of the sample; got {n}.")
    return n


def _margins(margins: Tensor, caller: str) -> Tensor:
    if not float_tensor(margins, caller, "margins").numel():
        raise ValueError(f"{caller}: margins must hold at least one margin; got none.")
    return margins
