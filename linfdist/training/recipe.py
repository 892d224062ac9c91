"""What a training method consists of, and the recipe that belongs to a configuration."""

from typing import Any, Protocol

import torch

from linfdist.nn import LogSumExp
from linfdist.training.bounds import BoundRecipe, BoundTrainConfig
from linfdist.training.colt import LayerwiseRecipe, LayerwiseTrainConfig
from linfdist.training.config import AnyTrainConfig, Net
from linfdist.training.dist_net import LinfDistRecipe
from linfdist.training.objective import Objective


class Recipe(Protocol):
    """A training method, as ``fit`` uses it. ``BoundRecipe`` is a short example.

    A step at a progress of ``epochs`` epochs is

    1. ``progress = recipe.set_progress(epochs)``;
    2. ``loss, logits = recipe.objective(pixels, labels, *progress)``, then ``loss.backward()``;
    3. ``recipe.optimizer.step()``.

    To add a method, write one module in ``linfdist/training/`` with

    - a frozen dataclass of its settings, with the fields that ``fit`` reads: ``epochs`` (three
      numbers, whose sum is the run's length), ``batch_size``, ``augmentation``, ``train_images``
      and ``matmul_precision``;
    - an ``Objective`` whose ``loss`` is the method's formula. Empty shares of a batch, and weights
      without a gradient, are treated in ``Objective``, for all methods;
    - a class with the attributes below. ``__init__(net, config)`` refuses a network that the method
      cannot train, with a TypeError.

    Then name the dataclass in ``AnyTrainConfig`` and the class in ``recipe_of``. The loop,
    checkpoints, resuming, several processes and the record of a run need nothing else.

    Attributes:
        objective: maps pixels, labels and the values of ``set_progress`` to the mean loss and the
            logits. Checkpoints save its state: the network's, and parameters of the loss.
        optimizer: over all parameters of the objective.
        state: the names of the optimizer's values for each parameter, which a checkpoint must hold.
        p: the column p of epochs.csv, of the last ``set_progress``; ∞ for a method without p.
        lr: the column lr: the learning rate of the last ``set_progress``. NaN before the first one.
        eps_train: the column eps_train: the radius in pixels of the last ``set_progress``; None for
            a loss on margins of Lipschitz logits.
    """

    p: float
    lr: float
    eps_train: float | None

    @property
    def objective(self) -> Objective: ...

    @property
    def optimizer(self) -> torch.optim.Optimizer: ...

    @property
    def state(self) -> tuple[str, ...]: ...

    def set_progress(self, epochs: float) -> tuple[Any, ...]:
        """Prepare the step after ``epochs`` epochs; return the objective's further arguments.

        Sets the optimizer's learning rate, ``p``, ``lr`` and ``eps_train``. All of them, and the
        result, depend only on ``epochs``: a resumed run calls this with the progress it resumes at.
        """
        ...

    @property
    def eval_p(self) -> float | LogSumExp:
        """The p or LogSumExp at which ``fit`` measures an epoch's accuracy."""
        ...


def recipe_of(config: AnyTrainConfig, net: Net) -> Recipe:
    """The recipe that trains ``net`` as ``config`` says.

    Raises:
        TypeError, ValueError: the configuration does not train this kind of network.
    """
    if isinstance(config, LayerwiseTrainConfig):
        return LayerwiseRecipe(net, config)
    if isinstance(config, BoundTrainConfig):
        return BoundRecipe(net, config)
    return LinfDistRecipe(net, config)
