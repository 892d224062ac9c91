"""The network and its loss in one module, and what every loss needs besides its formula."""

from collections.abc import Iterable
from typing import Any

from torch import Tensor, nn


class Objective(nn.Module):
    """Network and loss in one module, so that DistributedDataParallel sums gradients at once.

    A method writes ``loss``. ``forward`` adds what no method has to think of. Processes sum their
    gradients weight by weight, so every weight needs a gradient in every process and every step:

    - A process whose share of the batch is empty has the loss 0, with a gradient of 0 in all
      weights.
    - A weight on which a step's loss does not depend (``idle``) has a gradient of 0.
    """

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = net

    def forward(self, pixels: Tensor, labels: Tensor, *progress: Any) -> tuple[Tensor, Tensor]:
        """The mean loss and the logits; ``progress`` is what ``Recipe.set_progress`` returned."""
        if len(labels):
            loss, logits = self.loss(pixels, labels, *progress)
            return loss + _zero(self.idle(*progress)), logits
        # Through the network: its mean shifts communicate, forward and backward.
        logits = self.logits(pixels, *progress)
        return logits.sum() + _zero(self.parameters()), logits

    def loss(self, pixels: Tensor, labels: Tensor, *progress: Any) -> tuple[Tensor, Tensor]:
        """The mean loss of at least one image, and the logits, which train_accuracy counts."""
        raise NotImplementedError

    def logits(self, pixels: Tensor, *progress: Any) -> Tensor:
        """The logits with their graph, by the same communication between processes as ``loss``."""
        return self.net(pixels)

    def idle(self, *progress: Any) -> Iterable[Tensor]:
        """The weights that have no gradient in a step of this progress; none by default."""
        return ()


def _zero(weights: Iterable[Tensor]) -> Tensor | int:
    """0, with a gradient of 0 in all ``weights``."""
    return sum(weight.sum() * 0 for weight in weights)
