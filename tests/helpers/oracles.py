"""Oracles in float64 numpy, written from the formulas and sharing nothing with the package."""

import math

import numpy as np


def lp_dist(x: np.ndarray, weight: np.ndarray, p: float) -> np.ndarray:
    """‖x_b − w_j‖_p in float64, scaled so that no power overflows."""
    d = np.abs(x.astype(np.float64)[:, None] - weight.astype(np.float64)[None])
    if d.shape[-1] == 0:
        return np.zeros(d.shape[:2])
    top = d.max(-1)
    if math.isinf(p):
        return top
    safe = np.where(top > 0, top, 1.0)
    return top * ((d / safe[..., None]) ** p).sum(-1) ** (1 / p)


def lp_dist_gradients(
    grad: np.ndarray, x: np.ndarray, weight: np.ndarray, p: float
) -> tuple[np.ndarray, np.ndarray]:
    """Gradients of Σ grad · lp_dist in float64; at p = ∞ the first maximum takes all."""
    d = x.astype(np.float64)[:, None] - weight.astype(np.float64)[None]
    if math.isinf(p):
        share = np.zeros_like(d)
        np.put_along_axis(share, np.abs(d).argmax(-1)[..., None], 1.0, -1)
    else:
        norm = lp_dist(x, weight, p)[..., None]
        ratio = np.divide(np.abs(d), norm, out=np.zeros_like(d), where=norm > 0)
        share = ratio ** (p - 1)
    terms = grad.astype(np.float64)[..., None] * share * np.sign(d)
    return terms.sum(1), -terms.sum(0)


def lse_dist(x: np.ndarray, weight: np.ndarray, t: float) -> np.ndarray:
    """(1/t) log Σ_i [e^(td) + e^(−td)] in float64, each pair shifted by its own maximum."""
    d = np.abs(x.astype(np.float64)[:, None] - weight.astype(np.float64)[None])
    top = d.max(-1, keepdims=True)
    total = (np.exp(t * (d - top)) + np.exp(-t * (d + top))).sum(-1)
    return np.log(total) / t + top[..., 0]


def lse_dist_gradients(
    grad: np.ndarray, x: np.ndarray, weight: np.ndarray, t: float
) -> tuple[np.ndarray, np.ndarray]:
    """Gradients of Σ grad · lse_dist in float64."""
    d = x.astype(np.float64)[:, None] - weight.astype(np.float64)[None]
    top = np.abs(d).max(-1, keepdims=True)
    plus, minus = np.exp(t * (d - top)), np.exp(t * (-d - top))
    share = (plus - minus) / (plus + minus).sum(-1, keepdims=True)
    terms = grad.astype(np.float64)[..., None] * share
    return terms.sum(1), -terms.sum(0)


def linf_interval(
    lower: np.ndarray, upper: np.ndarray, weight: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Exact range of ‖x − w‖_∞ on the box: the nearest and the farthest point of each axis."""
    low, high = lower.astype(np.float64)[:, None], upper.astype(np.float64)[:, None]
    w = weight.astype(np.float64)[None]
    nearest = np.clip(w, low, high)
    farthest = np.maximum(np.abs(w - low), np.abs(w - high))
    return np.abs(nearest - w).max(-1), farthest.max(-1)


def lp_decay(weight: np.ndarray, p: float, rate: float) -> np.ndarray:
    """weight − rate (|w| / ‖w‖_p)^(p−2) w row by row; at p = ∞ the first largest entry alone."""
    rows = weight.astype(np.float64).reshape(len(weight), -1)
    largest = np.abs(rows).argmax(1)[:, None]
    if math.isinf(p):
        loss = np.zeros_like(rows)
        np.put_along_axis(loss, largest, np.take_along_axis(rows, largest, 1), 1)
    else:
        norm = np.array([lp_dist(row[None], 0 * row[None], p)[0] for row in rows])
        ratio = np.divide(np.abs(rows), norm, out=np.zeros_like(rows), where=rows != 0)
        loss = ratio ** (p - 1) * np.sign(rows) * norm
    return (rows - rate * loss).reshape(weight.shape)


def adamw_step(
    weight: np.ndarray,
    grad: np.ndarray,
    exp_avg: np.ndarray,
    exp_avg_sq: np.ndarray,
    *,
    p: float,
    rate: float,
    lr: float,
    betas: tuple[float, float],
    eps: float,
    steps: int,
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Weight and both moments after the decay and Adam's step number ``steps``."""
    grad = grad.astype(np.float64)
    exp_avg = betas[0] * exp_avg.astype(np.float64) + (1 - betas[0]) * grad
    exp_avg_sq = betas[1] * exp_avg_sq.astype(np.float64) + (1 - betas[1]) * grad**2
    mean, square = exp_avg / (1 - betas[0] ** steps), exp_avg_sq / (1 - betas[1] ** steps)
    update = lr * mean / (np.sqrt(square) + eps)
    return lp_decay(weight, p, rate) - update, exp_avg, exp_avg_sq
