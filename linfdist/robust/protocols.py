"""What a network must offer to be attacked and certified."""

from typing import Protocol, runtime_checkable

from torch import Tensor


class Classifier(Protocol):
    """An ``nn.Module`` from pixels, (batch, *input_shape), to logits, (batch, num_classes).

    ``worst_case_margins_on_box`` returns upper bounds of logit_k − logit_y at p = ∞ on the box
    lower <= pixels <= upper, 0 at k = y, shape (batch, num_classes).
    """

    input_shape: tuple[int, int, int]
    num_classes: int

    def __call__(self, x: Tensor, p: float = ...) -> Tensor: ...

    def worst_case_margins_on_box(self, lower: Tensor, upper: Tensor, labels: Tensor) -> Tensor: ...


@runtime_checkable
class Lipschitz(Protocol):
    """Every logit is ``lipschitz``-Lipschitz in the pixels, in l_inf, at p = ∞."""

    lipschitz: float
