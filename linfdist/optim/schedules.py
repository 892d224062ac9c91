"""p, the learning rate, eps_train and λ as pure functions of progress, in epochs.

``epochs`` is the paper's (e1, e2, e3)  [Zhang2021, Sec. 7.1 and App. D]: e1 epochs at p_start, e2
epochs in which p rises, and e3 epochs at p = ∞. ``progress`` counts finished mini-batches too: 2.5
is half-way through the third epoch.
"""

import math
from typing import Literal

Epochs = tuple[int, int, int]
LrSchedule = Literal["paper", "cosine"]


def p_at(
    progress: float,
    epochs: Epochs,
    p_start: float = 8.0,
    p_end: float = 1000.0,
    p_rise: float | None = None,
) -> float:
    """p_start, then p_rise (p_end / p_rise)^((progress − e1) / e2), then ∞.

    p never equals p_end: at the end of the rise p is ∞. With p_start = ∞, p is ∞ throughout.

    Args:
        progress: finished epochs.
        epochs: (e1, e2, e3).
        p_start: p of the first e1 epochs.
        p_end: the limit of p at the end of the rise.
        p_rise: p at the start of the rise; None for p_start.
    """
    e1, e2, _ = epochs
    if math.isinf(p_start) or progress >= e1 + e2:
        return math.inf
    if progress <= e1:
        return p_start
    first = p_start if p_rise is None else p_rise
    return first * (p_end / first) ** ((progress - e1) / e2)


def lr_at(
    progress: float, epochs: Epochs, lr: float = 0.02, schedule: LrSchedule = "paper"
) -> float:
    """lr for e1 epochs, then a half cosine to 0 over e2 + e3.

    With ``schedule="cosine"`` the half cosine starts at once and extends over e1 + e2 + e3.
    """
    start = epochs[0] if schedule == "paper" else 0
    if progress <= start:
        return lr
    return lr / 2 * (1 + math.cos(math.pi * min(1.0, (progress - start) / (sum(epochs) - start))))


def relaxation_at(progress: float, epochs: Epochs, relaxation: float = 1.0) -> float:
    """``relaxation`` for e1 epochs, an exponential fall to 1 over e2 while p grows, then 1."""
    e1, e2, _ = epochs
    if progress >= e1 + e2:
        return 1.0
    if progress <= e1:
        return relaxation
    return relaxation ** (1 - (progress - e1) / e2)


def eps_at(progress: float, epochs: Epochs, eps: float) -> float:
    """eps times progress / e1 over the first e1 epochs, then eps; eps at once where e1 = 0."""
    e1 = epochs[0]
    return eps if progress >= e1 else eps * progress / e1


def weight_at(progress: float, epochs: Epochs, weights: tuple[float, float, float]) -> float:
    """λ: weights[0] for e1 epochs, then exponentially from weights[1] to weights[2] over e2.

    λ then stays at weights[2].
    """
    e1, e2, _ = epochs
    first, start, end = weights
    if progress < e1:
        return first
    if progress >= e1 + e2:
        return end
    return start if start == 0 else start * (end / start) ** ((progress - e1) / e2)
