"""What one l_inf-dist neuron can compute besides a distance  [Zhang2021, Prop. A.2]."""

import torch
from torch import Tensor

from linfdist.system.inputs import finite, float_tensor
from linfdist.system.values import whole


def selected(signs: Tensor, shifts: Tensor, offset: float) -> Tensor:
    """The weight with which ‖v − weight‖_∞ − offset = max_{signs_j ≠ 0} signs_j v_j + shifts_j.

    ``signs`` (−1, 0 or 1), ``shifts`` and the weight have shape (..., in_features). Each row has at
    least one sign that is not 0. The equation holds if |v_j| ≤ offset / 2 for all j, and
    |signs_j v_j + shifts_j| ≤ offset / 2 for the selected inputs. The selected inputs are then
    lifted to at least offset / 2, and the others stay at or below it. The paper selects one or two
    inputs; any number works.
    """
    signs = float_tensor(signs, "selected", "signs")
    shifts = float_tensor(shifts, "selected", "shifts")
    return -signs * (finite(offset, "selected", "offset") + shifts)


def projection(
    in_features: int, j: int, *, offset: float, constant: float = 0.0
) -> tuple[Tensor, Tensor]:
    """Weight and bias of the neuron v_j + constant  [Zhang2021, Eq. 11].

    Valid for ‖v‖_∞ ≤ offset / 2. The weight has shape (in_features,), the bias has shape ().
    """
    j = whole(j, "projection: j", least=None)
    return _neuron(in_features, {j: (1, 0.0)}, offset, constant, "projection")


def negation(
    in_features: int, j: int, *, offset: float, constant: float = 0.0
) -> tuple[Tensor, Tensor]:
    """Weight and bias of the neuron −v_j + constant  [Zhang2021, Eq. 12]; as ``projection``."""
    j = whole(j, "negation: j", least=None)
    return _neuron(in_features, {j: (-1, 0.0)}, offset, constant, "negation")


def maximum(
    in_features: int,
    j: int,
    k: int,
    *,
    offset: float,
    sign: int = 1,
    shift: float = 0.0,
    constant: float = 0.0,
) -> tuple[Tensor, Tensor]:
    """Weight and bias of the neuron max(sign v_j + shift, v_k) + constant  [Zhang2021, Eq. 13].

    Valid for ‖v‖_∞ ≤ offset / 2 and |sign v_j + shift| ≤ offset / 2.

    Args:
        in_features: the number of inputs.
        j: the index of the first selected input.
        k: the index of the second selected input.
        offset: at least twice the largest input.
        sign: 1 or −1.
        shift: added to sign v_j.
        constant: added to the maximum.
    """
    j, k = whole(j, "maximum: j", least=None), whole(k, "maximum: k", least=None)
    shift = finite(shift, "maximum", "shift")
    if isinstance(sign, Tensor) or sign not in (1, -1):
        raise ValueError(f"maximum: sign must be 1 or -1; got {sign}.")
    if j == k:
        raise ValueError(
            f"maximum: j and k must be two inputs; got {j} twice. A neuron has one weight per "
            "input, so it cannot hold both v_j and -v_j."
        )
    return _neuron(in_features, {j: (sign, shift), k: (1, 0.0)}, offset, constant, "maximum")


def _neuron(
    in_features: int,
    terms: dict[int, tuple[int, float]],
    offset: float,
    constant: float,
    name: str,
) -> tuple[Tensor, Tensor]:
    """The neuron that selects ``terms``, a map from input to (sign, shift), in float64."""
    in_features = whole(in_features, f"{name}: in_features", least=1)
    offset, constant = finite(offset, name, "offset"), finite(constant, name, "constant")
    signs = torch.zeros(in_features, dtype=torch.float64)
    shifts = torch.zeros_like(signs)
    for j, (sign, shift) in terms.items():
        if not 0 <= j < in_features:
            raise ValueError(
                f"{name}: an input must be in 0 … in_features - 1 = {in_features - 1}; got {j}."
            )
        signs[j], shifts[j] = sign, shift
    if not offset > 0:
        raise ValueError(f"{name}: offset must be positive, twice the inputs' bound; got {offset}.")
    return selected(signs, shifts, offset), signs.new_tensor(constant - offset)
