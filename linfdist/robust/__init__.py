"""Robustness: losses, certificates and attacks."""

from linfdist.robust.attacks import Attack, pgd
from linfdist.robust.certificates import interval_certified, interval_radius, margin_radius
from linfdist.robust.losses import HingeLoss, IBPLoss, hinge_loss, ibp_loss
from linfdist.robust.protocols import Classifier, Lipschitz
from linfdist.robust.sound import SOUND, sound_certificates, sound_certified, sound_radius

__all__ = [
    "SOUND",
    "Attack",
    "Classifier",
    "HingeLoss",
    "IBPLoss",
    "Lipschitz",
    "hinge_loss",
    "ibp_loss",
    "interval_certified",
    "interval_radius",
    "margin_radius",
    "pgd",
    "sound_certificates",
    "sound_certified",
    "sound_radius",
]
