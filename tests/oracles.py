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


def linf_interval(
    lower: np.ndarray, upper: np.ndarray, weight: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Exact range of ‖x − w‖_∞ on the box: the nearest and the farthest point of each axis."""
    low, high = lower.astype(np.float64)[:, None], upper.astype(np.float64)[:, None]
    w = weight.astype(np.float64)[None]
    nearest = np.clip(w, low, high)
    farthest = np.maximum(np.abs(w - low), np.abs(w - high))
    return np.abs(nearest - w).max(-1), farthest.max(-1)
