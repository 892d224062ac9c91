"""How far l_p-dist nets with p < ∞ stretch distances: Remark 3.5 in numbers.

Take the norm l_q with q ≥ p and the widths (d, W_1, …, W_L). The gradient of a neuron has l_p' norm
at most 1 (1/p + 1/p' = 1). A neuron of n inputs therefore moves by at most n^(1/p − 1/q) ‖Δx‖_q,
and a layer of m neurons by at most m^(1/q) n^(1/p − 1/q) ‖Δx‖_q. The product over the layers is

    (W_L / d)^(1/q) (d W_1 … W_{L−1})^(1/p),

and the net whose weights are all 0 attains it: it takes s (1, …, 1), s > 0, to
s (d W_1 … W_{L−1})^(1/p) (1, …, 1). In l_inf the widths of the layers' inputs count, in l_p the
widths of their outputs. In l_p a single neuron is 1-Lipschitz, but a layer of neurons is not.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from linfdist.nn import LinfDistNet, LpDist, NetConfig, build_net
from linfdist.ops.checks import check_p
from linfdist.system.inputs import check_function, float_tensor, real, wholes


def lipschitz_constant(widths: Sequence[int], p: float, norm: float = math.inf) -> float:
    """(W_L / d)^(1/q) (d W_1 … W_{L−1})^(1/p), the worst of all l_p-dist nets in the norm l_q.

    No such net has a larger Lipschitz constant, whatever its weights, and ``counter_example`` has
    exactly this one. It is the subject of [Zhang2021, Remark 3.5]. ``widths`` is (d, W_1, …, W_L),
    input and outputs included. ``norm`` is q, with p ≤ q ≤ ∞. At p = ∞ the constant is 1
    (Fact 3.4).

    Raises ValueError for fewer than two widths, one below 1, p < 1, or q < p, where the product of
    the layers' constants is not attained.
    """
    p = check_p("lipschitz_constant", real(p, "lipschitz_constant", "p"))
    norm = real(norm, "lipschitz_constant", "norm")
    widths = _check_widths(widths, "lipschitz_constant", least=2)
    if not norm >= p:
        raise ValueError(
            f"lipschitz_constant: norm must be at least p={p:g}; got {norm:g}. In a norm below p "
            "no net attains the product of the layers' constants."
        )
    ends = (math.log(widths[-1]) - math.log(widths[0])) / norm
    return math.exp(ends + sum(map(math.log, widths[:-1])) / p)


@dataclass(frozen=True, eq=False)
class CounterExample:
    """A net and two images, (1, 1, 1, d), between which it stretches as far as any net can.

    ``net(x, p)``, in float64 and evaluation mode, has class 0 at ``x`` and class 1 at ``other``.
    The images have l_inf distance 1/2. Half-way between them the two classes are level.
    """

    net: LinfDistNet
    x: Tensor
    other: Tensor


def counter_example(widths: Sequence[int], p: float) -> CounterExample:
    """A ``LinfDistNet`` of these widths that is not 1-Lipschitz at p < ∞ [Zhang2021, Remark 3.5].

    All weights are 0, except those of every second output. These are h(1), the value of a hidden
    unit at the input (1, …, 1). Let λ = (d W_1 … W_{L−1})^(1/p). On s (1, …, 1) with 0 ≤ s ≤ 1 the
    distances are λ s at the even outputs and λ (1 − s) at the odd ones.

    - Each output moves by λ, so ``lipschitz_constant`` is attained in every norm.
    - The difference of two outputs moves by 2 λ, so half the margin is λ times the distance at
      which the class changes.

    ``widths`` is (d, W_1, …, W_L).

    Raises ValueError unless there are a hidden layer and two outputs, or for p < 1.
    """
    p = check_p("counter_example", real(p, "counter_example", "p"))
    widths = _check_widths(widths, "counter_example", least=3)
    if widths[-1] < 2:
        raise ValueError(
            f"counter_example: widths must end in at least 2 outputs; got {tuple(widths)}. A net "
            "has a logit for each class."
        )
    inputs, *hidden, outputs = widths
    config = NetConfig(kind="net", hidden=tuple(hidden), identity_value=None)
    net = build_net(
        config, input_shape=(1, 1, inputs), num_classes=outputs, mean=[0.0], std=1.0
    ).double()
    assert isinstance(net, LinfDistNet)  # by its kind
    with torch.no_grad():
        for layer in net.modules():
            if isinstance(layer, LpDist):
                layer.weight.zero_()
        net.eval()
        far = net.features(torch.ones(1, 1, 1, inputs, dtype=torch.float64), p)
        net.last.weight[1::2] = far
    x = torch.full((1, 1, 1, inputs), 0.25, dtype=torch.float64)
    return CounterExample(net, x, 3 * x)


@torch.inference_mode(False)
def local_lipschitz(
    function: Callable[[Tensor], Tensor], x: Tensor, norm: float = math.inf
) -> Tensor:
    """The operator norm of the Jacobian at each x, from l_q to l_q with q = 1, 2 or ∞.

    The result has shape (batch,). In l_inf it is the largest l_1 norm of an output's gradient, in
    l_1 the largest column sum. The maximum over points is a lower bound of the Lipschitz constant.
    ``function`` takes (batch, ...) to (batch, outputs) and treats each row separately, as a net in
    evaluation mode does. Cost: one backward pass per output.

    Raises ValueError for another norm, whose operator norm has no formula.
    """
    check_function(function, "local_lipschitz")
    x = float_tensor(x, "local_lipschitz", "x")
    if isinstance(norm, Tensor) or norm not in (1, 2, math.inf):
        raise ValueError(f"local_lipschitz: norm must be 1, 2 or inf; got {norm}.")
    x = x.detach().clone().requires_grad_(True)
    out = function(x)  # with gradients: leaving inference mode turns them on
    rows = [
        torch.autograd.grad(column.sum(), x, retain_graph=True)[0].flatten(1)
        for column in out.unbind(1)
    ]
    return torch.linalg.matrix_norm(torch.stack(rows, 1), ord=norm)


def _check_widths(widths: Sequence[int], caller: str, least: int) -> tuple[int, ...]:
    widths = wholes(widths, caller, "widths")
    if len(widths) < least or min(widths) < 1:
        raise ValueError(
            f"{caller}: widths must be at least {least} positive numbers, those of the input, the "
            f"hidden layers and the output; got {tuple(widths)}."
        )
    return widths
