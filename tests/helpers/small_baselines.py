"""Tiny networks of every kind of the baselines, and boxes around their images."""

import torch
from torch import nn

from linfdist.baselines import BaselineConfig, build_baseline

SHAPE = (2, 8, 8)
WIDTHS = {
    "dm_large": 1 / 16,
    "dm_medium": 1 / 8,
    "cnn7_bn": 1 / 16,
    "resnet_tiny": 1 / 4,
    "cap": 1 / 8,
    "colt": 1 / 16,
    "pvt": 1 / 4,
    "groupsort": 1 / 64,
}
RELAXED = [kind for kind in WIDTHS if kind != "groupsort"]


def small(kind, seed=0, num_classes=4):
    """A float64 network with batch statistics that are not the initial ones."""
    torch.manual_seed(seed)
    net = build_baseline(
        BaselineConfig(kind=kind, width=WIDTHS[kind]),
        input_shape=SHAPE,
        num_classes=num_classes,
        mean=(0.4, 0.5),
        std=0.3,
    ).double()
    for module in net.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.normal_(module.weight)
            nn.init.normal_(module.bias)
            nn.init.normal_(module.running_mean, 0, 0.2)
            nn.init.uniform_(module.running_var, 0.5, 2)
    return net


def batch(n=6, seed=1, num_classes=4):
    """Images and labels."""
    generator = torch.Generator().manual_seed(seed)
    x = torch.rand(n, *SHAPE, generator=generator, dtype=torch.float64)
    return x, torch.arange(n) % num_classes


def ball(x, eps):
    return (x - eps).clamp(0, 1), (x + eps).clamp(0, 1)


def points_in(lower, upper, number=12):
    """Uniform points of the box, then corners of it."""
    for index in range(number):
        t = torch.rand_like(lower)
        yield lower + (upper - lower) * (t if index % 2 else t.round())


def margins_at(net, x, labels):
    logits = net(x)
    return logits - logits.gather(1, labels[:, None])


def ascent(net, value, lower, upper, steps=6):
    """The point of the box that sign-gradient steps upward find for a value of each image."""
    x = (lower + upper) / 2
    for step in range(steps):
        x = x.detach().requires_grad_(True)
        gradient = torch.autograd.grad(value(net, x).sum(), x)[0]
        size = (upper - lower) / (2 + step)
        x = torch.minimum(torch.maximum(x + size * gradient.sign(), lower), upper)
    return x.detach()
