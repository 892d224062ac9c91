"""Run all attacks on one batch and report the images that survive every attack."""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from fractions import Fraction
from types import MappingProxyType
from typing import Any

import torch
from torch import Tensor

from linfdist.nn import LogSumExp, frozen
from linfdist.robust.attacks.guided import guided_pgd
from linfdist.robust.attacks.pgd import Attack, pgd
from linfdist.robust.attacks.square import square_attack
from linfdist.robust.checks import Classifier, check_finite, check_images, radius
from linfdist.system.inputs import checked_generator
from linfdist.system.names import unknown
from linfdist.system.values import shown

ATTACKS: Mapping[str, Callable[..., Attack]] = MappingProxyType(
    {"pgd": pgd, "guided_pgd": guided_pgd, "square_attack": square_attack}
)


@dataclass(frozen=True)
class AttackSetting:
    """One attack of an ensemble: a key of ``ATTACKS`` and its keyword arguments."""

    method: str
    arguments: Mapping[str, Any]

    def __post_init__(self) -> None:
        if not isinstance(self.method, str):
            raise TypeError(
                f"AttackSetting: method must be one of {', '.join(ATTACKS)}; got "
                f"{shown(self.method)}."
            )
        if self.method not in ATTACKS:
            raise ValueError(unknown("method of an AttackSetting", self.method, ATTACKS))
        if not isinstance(self.arguments, Mapping):
            raise TypeError(
                "AttackSetting: arguments must be a mapping of names to values; got "
                f"{shown(self.arguments)}."
            )

    def __call__(
        self,
        net: Classifier,
        images: Tensor,
        labels: Tensor,
        eps: Fraction | float | Tensor,
        generator: torch.Generator | None = None,
    ) -> Attack:
        return ATTACKS[self.method](net, images, labels, eps, generator=generator, **self.arguments)


def _guided(guide: float | LogSumExp, **arguments: Any) -> AttackSetting:
    return AttackSetting("guided_pgd", {"guide": guide, "num_steps": 50, **arguments})


# For networks without a p: attacks with the network's own gradients, and one without gradients.
CONVENTIONAL: Mapping[str, AttackSetting] = MappingProxyType(
    {
        "pgd_20": AttackSetting("pgd", {"num_steps": 20}),
        "pgd_100": AttackSetting("pgd", {"num_steps": 100}),
        "guided_inf": _guided(math.inf),
        "guided_inf_ce": _guided(math.inf, loss="cross_entropy"),
        "square": AttackSetting("square_attack", {"num_queries": 1000}),
    }
)
# For l_inf-dist nets: CONVENTIONAL, and gradients of the same weights at finite p and under
# LogSumExp. Cheap and strong attacks come first, because beaten images cost nothing further.
GUIDED: Mapping[str, AttackSetting] = MappingProxyType(
    {
        "pgd_20": CONVENTIONAL["pgd_20"],
        "guided_lse": _guided(LogSumExp(30.0)),
        "guided_300": _guided(300.0),
        "guided_100": _guided(100.0),
        "guided_1000": _guided(1000.0),
        "guided_30": _guided(30.0),
        "guided_100_ce": _guided(100.0, loss="cross_entropy"),
        "guided_inf": CONVENTIONAL["guided_inf"],
        "guided_inf_ce": CONVENTIONAL["guided_inf_ce"],
        "pgd_100": CONVENTIONAL["pgd_100"],
        "guided_8": _guided(8.0),
        "square": CONVENTIONAL["square"],
    }
)


def check_attacks(attacks: Mapping[str, AttackSetting], caller: str) -> None:
    """Refuse anything except a mapping of names to attacks."""
    if not isinstance(attacks, Mapping) or not all(map(callable, attacks.values())):
        raise TypeError(
            f"{caller}: attacks must be a mapping of names to AttackSetting; got {shown(attacks)}. "
            "Pass GUIDED or CONVENTIONAL of linfdist.robust.attacks.ensemble, or a part of it."
        )


@dataclass(frozen=True, eq=False)
class Strongest(Attack):
    """An ``Attack`` with ``beaten_by``: for each image the first attack that beat it, or None.

    For an image that is misclassified without an attack, ``beaten_by`` is "clean".
    """

    beaten_by: tuple[str | None, ...]


@torch.inference_mode(False)
def strongest(
    net: Classifier,
    images: Tensor,
    labels: Tensor,
    eps: Fraction | float | Tensor,
    *,
    attacks: Mapping[str, AttackSetting] = GUIDED,
    generator: torch.Generator | None = None,
) -> Strongest:
    """Run every attack in turn, each on the images still unbeaten  [CroceHein2020, AutoAttack].

    One last forward pass of the whole batch gives the verdict.

    Args:
        net: the network.
        images: pixels in [0, 1], shape (batch, *input_shape).
        labels: one class per image.
        eps: radius in pixels, a number or a tensor with one radius per image.
        attacks: ``GUIDED`` for l_inf-dist nets, or ``CONVENTIONAL`` for networks without a p.
        generator: source of random numbers; None for torch's global generator.

    Raises:
        TypeError: the network is not a ``Classifier``, or an argument has the wrong type.
        ValueError: images, labels, eps or weights are invalid.
    """
    check_attacks(attacks, "strongest")
    generator = checked_generator(generator, "strongest")
    images, labels = check_images(net, images, labels, "strongest")
    check_finite(net, "strongest")
    radii = radius(eps, images, "strongest")
    with frozen(net) as still, torch.no_grad():
        alive = still(images, math.inf).argmax(1) == labels
    adversarial = images.clone()
    beaten_by: list[str | None] = [None if holds else "clean" for holds in alive.tolist()]
    for name, attack in attacks.items():
        rows = alive.nonzero().squeeze(1)
        if not len(rows):
            break
        some = eps if radii.ndim == 0 else radii[rows]
        attacked = attack(net, images[rows], labels[rows], some, generator)
        adversarial[rows] = attacked.adversarial
        alive[rows] = attacked.survived
        for row in rows[~attacked.survived].tolist():
            beaten_by[row] = name
    with frozen(net) as still, torch.no_grad():
        survived = still(adversarial, math.inf).argmax(1) == labels
    names = zip(beaten_by, survived.tolist(), strict=True)
    return Strongest(adversarial, survived, tuple(None if holds else name for name, holds in names))
