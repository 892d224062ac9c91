"""Robustness: losses, certificates and attacks."""

from linfdist.robust.attacks.ensemble import Strongest, strongest
from linfdist.robust.attacks.guided import guided_pgd
from linfdist.robust.attacks.nearest import attacked_radius
from linfdist.robust.attacks.pgd import Attack, pgd
from linfdist.robust.attacks.square import square_attack
from linfdist.robust.certificates import interval_certified, interval_radius, margin_radius
from linfdist.robust.checks import Classifier, Lipschitz
from linfdist.robust.exact import ExactRadius, exact_radius
from linfdist.robust.losses import (
    GatedLoss,
    HingeLoss,
    IBPLoss,
    Loss,
    MixtureLoss,
    clipped_hinge_loss,
    gated_loss,
    hinge_loss,
    ibp_loss,
    mixture_loss,
)
from linfdist.robust.sound import SOUND, sound_certificates, sound_certified, sound_radius

__all__ = [
    "SOUND",
    "Attack",
    "Classifier",
    "ExactRadius",
    "GatedLoss",
    "HingeLoss",
    "IBPLoss",
    "Lipschitz",
    "Loss",
    "MixtureLoss",
    "Strongest",
    "attacked_radius",
    "clipped_hinge_loss",
    "exact_radius",
    "gated_loss",
    "guided_pgd",
    "hinge_loss",
    "ibp_loss",
    "interval_certified",
    "interval_radius",
    "margin_radius",
    "mixture_loss",
    "pgd",
    "sound_certificates",
    "sound_certified",
    "sound_radius",
    "square_attack",
    "strongest",
]
