"""Clean, attacked and certified accuracy of a trained network, image by image."""

import math
from collections.abc import Callable, Iterator
from fractions import Fraction
from typing import Any

import pandas as pd
import torch
from torch import Tensor
from tqdm import tqdm

from linfdist import records
from linfdist.data import ImageSet, check_image_set, to_pixels
from linfdist.nn import LinfDistNet, LinfDistNetMLP, LogSumExp, frozen
from linfdist.robust import (
    SOUND,
    Classifier,
    Lipschitz,
    interval_certified,
    interval_radius,
    margin_radius,
    pgd,
    sound_certificates,
)
from linfdist.robust.boxes import rounded_box
from linfdist.robust.certificates import proven
from linfdist.robust.checks import check_finite, check_labels, check_net, checked_lipschitz, norm
from linfdist.system import devices as system_devices
from linfdist.system import distributed
from linfdist.system.inputs import pixel_radius
from linfdist.system.terminal import shows_bar
from linfdist.system.values import seed as checked_seed
from linfdist.system.values import shown, whole

CERTIFICATE_COLUMNS = (
    "index",
    "label",
    "predicted",
    "margin_radius",
    "interval_radius",
    "certified_margin",
    "certified_interval",
    "survived_pgd",
    "sound_radius",
    "certified_sound",
)


class ContradictionError(RuntimeError):
    """A bug: an image is certified to the last bit, but not by intervals that ignore rounding."""


def accuracy(
    net: Classifier,
    images: ImageSet,
    *,
    p: float | LogSumExp = math.inf,
    batch_size: int = 512,
    together: bool = False,
) -> float:
    """The fraction of images that the network classifies correctly at this p, with running means.

    Args:
        net: the network.
        images: the images, on the network's device.
        p: the p or LogSumExp of the dist layers.
        batch_size: images classified at a time.
        together: all processes call this with the same arguments, and each classifies its share.

    Raises:
        TypeError, ValueError: as ``clean_and_certified``.
    """
    clean, _ = _clean_and_certified(
        net, images, Fraction(0), p, batch_size, together, caller="accuracy"
    )
    return clean


def clean_and_certified(
    net: Classifier,
    images: ImageSet,
    *,
    eps: Fraction | float,
    p: float | LogSumExp = math.inf,
    batch_size: int = 512,
    together: bool = False,
) -> tuple[float, float | None]:
    """``accuracy``, and the fraction of images certified at eps by the Lipschitz constant.

    The second number is meant for watching a training run: margins are rounded in float32, and the
    ball is not clipped to the range of pixels. It certifies the network at this p. With a
    ``LogSumExp`` that is the smoothed network, whose layers are 1-Lipschitz as at p = ∞. At a
    finite p layers are not 1-Lipschitz, and the number is None.

    Args:
        net: the network.
        images: the images, on the network's device.
        eps: the radius, in pixels.
        p: the p or LogSumExp of the dist layers.
        batch_size: images classified at a time.
        together: all processes call this with the same arguments, and each classifies its share.

    Raises:
        TypeError: the network is no ``Classifier``, ``images`` is no ``ImageSet``, or another
            argument has a wrong type.
        ValueError: the images do not fit the network, or a number is out of its range.
    """
    return _clean_and_certified(
        net, images, eps, p, batch_size, together, caller="clean_and_certified"
    )


def _clean_and_certified(
    net: Classifier,
    images: ImageSet,
    eps: Fraction | float,
    p: float | LogSumExp,
    batch_size: int,
    together: bool,
    caller: str,
) -> tuple[float, float | None]:
    """``clean_and_certified``, with ``caller`` as the name in error messages."""
    eps, p = pixel_radius(eps, caller), norm(p, caller)
    batch_size = whole(batch_size, f"{caller}: batch_size", least=1)
    _check_set(net, images, caller, "images")
    _check_device(net, images, caller)
    counts = torch.zeros(2, dtype=torch.int64, device=images.labels.device)
    own = distributed.share(len(images)) if together else slice(None)
    with frozen(net) as net, torch.no_grad():
        bounded = _ball_bounds(net, p, float(eps))
        for chosen, labels in _batches(images, batch_size, own):
            logits, margins = bounded(to_pixels(chosen), labels)
            certified = proven(margins, labels)
            counts += torch.stack(((logits.argmax(1) == labels).sum(), certified.sum()))
    if together:
        counts = distributed.total(counts)
    clean, certified = (count / len(images) for count in counts.tolist())
    return clean, certified if isinstance(p, LogSumExp) or math.isinf(p) else None


def _ball_bounds(
    net: Classifier, p: float | LogSumExp, eps: float
) -> Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]:
    """A function from pixels and labels to logits and upper bounds of logit_k − logit_y within eps.

    The bounds hold if the layers are 1-Lipschitz. The Lipschitz constant is read only once, because
    each read waits for the GPU.
    """
    if isinstance(net, LinfDistNetMLP):
        reach = eps * net.feature_lipschitz

        def bounded(pixels: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
            features = net.features(pixels, p)
            logits, margins = net.logits_and_ball_margins(features, reach, labels)
            held = net.head_holds(features - reach, features + reach)
            return logits, margins.masked_fill(~held.unsqueeze(1), math.nan)

    elif isinstance(net, Lipschitz):
        reach = 2 * eps * checked_lipschitz(net, "clean_and_certified")

        def bounded(pixels: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
            logits = net(pixels, p)
            return logits, logits - logits.gather(1, labels.unsqueeze(1)) + reach

    else:

        def bounded(pixels: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
            box = rounded_box(pixels, eps)
            return net(pixels, p), net.worst_case_margins_on_box(*box, labels)

    return bounded


@torch.inference_mode(False)
def evaluate(
    net: Classifier,
    test: ImageSet,
    eps: Fraction | float,
    *,
    batch_size: int = 512,
    seed: int = 0,
    device: torch.device | str = "cpu",
    progress: bool = True,
) -> tuple[dict[str, float], pd.DataFrame]:
    """Clean, PGD-20 and certified accuracy at p = ∞, with the results of each image.

    Args:
        net: the network. It is neither changed nor moved.
        test: the test images.
        eps: the radius, in pixels.
        batch_size: images evaluated at a time.
        seed: of the attack's random starts.
        device: where to compute. Computations use IEEE 754 float32, whatever the settings of
            autocast and torch's precisions.
        progress: show a bar in a terminal.

    Returns:
        The metrics, as fractions of the images:

        - ``clean_accuracy``.
        - ``pgd_accuracy``.
        - ``certified_accuracy``: by the network's bounds on the pixel box, to the last bit if the
          network has such a certificate.
        - ``certified_accuracy_margin``: by margin / 2 > eps, only for Lipschitz logits.

        And a table with one row per image and ``CERTIFICATE_COLUMNS``; radii are in pixels:

        - index, label, predicted.
        - margin_radius, certified_margin: missing without Lipschitz logits.
        - interval_radius: by bisection, up to min(1, 4 eps). It is at least eps if and only if the
          image is certified at eps. For Lipschitz logits it is at least margin_radius, except for
          rounding.
        - certified_interval.
        - survived_pgd.
        - sound_radius, certified_sound: missing for networks not in ``robust.SOUND``. sound_radius
          is the largest radius, of those tried below interval_radius, that holds to the last bit.

    Under ``torch.inference_mode()`` the evaluation leaves that mode.

    Raises:
        TypeError: the network is no ``Classifier``, or is ``torch.compile``'s wrapper of one;
            ``test`` is no ``ImageSet``; or another argument has a wrong type.
        ValueError: images, labels, eps, weights or a number are not valid.
        DeviceError: the device cannot be used.
    """
    eps = pixel_radius(eps, "evaluate")
    batch_size = whole(batch_size, "evaluate: batch_size", least=1)
    seed = checked_seed(seed, "evaluate")
    device = _real_device(device)
    _check_set(net, test, "evaluate", "test", "worst_case_margins_on_box")
    check_finite(net, "evaluate")
    test = test.to(device)
    generator = torch.Generator().manual_seed(seed)
    quiet = not shows_bar(progress)
    parts = []
    bar = tqdm(total=len(test), disable=quiet, unit="image")
    with bar, frozen(net) as net:
        net.to(device)  # moves the frozen copy, not the caller's network
        for images, labels in _batches(test, batch_size):
            parts.append(_evaluate_batch(net, images, labels, eps, generator))
            bar.update(len(labels))
    certificates = pd.concat(parts, ignore_index=True)
    certificates.insert(0, "index", range(len(certificates)))
    return records.accuracies(certificates), certificates[list(CERTIFICATE_COLUMNS)]


def _check_set(net: Classifier, images: ImageSet, caller: str, name: str, *needed: str) -> None:
    """Refuse an invalid network, invalid images, and images that do not fit the network."""
    check_net(net, caller, *needed)
    check_image_set(images, f"{caller}: {name}")
    if len(images) == 0:
        raise ValueError(f"{caller}: {name} must hold at least one image; got none.")
    if tuple(images.images.shape[1:]) != tuple(net.input_shape):
        raise ValueError(
            f"{caller}: {name} must hold images of the network's input_shape="
            f"{tuple(net.input_shape)}; got {tuple(images.images.shape[1:])}."
        )
    check_labels(images.labels, net.num_classes, caller)


def _check_device(net: Classifier, images: ImageSet, caller: str) -> None:
    devices = {weight.device for weight in net.parameters()}
    if devices - {images.images.device}:
        raise ValueError(
            f"{caller}: images must be on the network's device; got {images.images.device} and "
            f"{', '.join(map(str, devices))}. Move them with images.to(device)."
        )


def _real_device(device: torch.device | str) -> torch.device:
    """The device; TypeError or DeviceError if it cannot be used."""
    if not isinstance(device, str | torch.device):
        raise TypeError(f"evaluate: device must be a name or a torch.device; got {shown(device)}.")
    return system_devices.usable_device(device)


def _evaluate_batch(
    net: Classifier,
    images: Tensor,
    labels: Tensor,
    eps: Fraction,
    generator: torch.Generator,
) -> pd.DataFrame:
    """The table of one batch. The network is frozen."""
    pixels = to_pixels(images)
    with torch.no_grad():
        predicted = net(pixels, math.inf).argmax(1)
    columns: dict[str, Any] = {
        "label": labels,
        "predicted": predicted,
        "interval_radius": interval_radius(
            net, pixels, labels, max(eps, min(Fraction(1), 4 * eps)), eps=eps
        ),
        "certified_interval": interval_certified(net, pixels, labels, eps),
        "survived_pgd": pgd(net, pixels, labels, eps, generator=generator).survived,
    }
    if isinstance(net, Lipschitz):
        radius = margin_radius(net, pixels, labels)
        columns["margin_radius"] = radius
        columns["certified_margin"] = radius > float(eps)
    if isinstance(net, SOUND):
        verdicts = columns["interval_radius"], columns["certified_interval"]
        columns |= sound_columns(net, images, labels, eps, *verdicts)
    table = pd.DataFrame({name: value.cpu().numpy() for name, value in columns.items()})
    if not isinstance(net, Lipschitz):
        table["margin_radius"] = math.nan
        table["certified_margin"] = pd.NA
    if not isinstance(net, SOUND):
        table["sound_radius"] = math.nan
        table["certified_sound"] = pd.NA
    return table


def sound_columns(
    net: LinfDistNet | LinfDistNetMLP,
    images: Tensor,
    labels: Tensor,
    eps: Fraction,
    radii: Tensor,
    certified: Tensor,
) -> dict[str, Tensor]:
    """sound_radius and certified_sound of images, from their interval certificates.

    Args:
        net: a network of a kind in ``robust.SOUND``.
        images: uint8 images.
        labels: their classes.
        eps: the radius, in pixels.
        radii: the images' interval_radius.
        certified: the images' certified_interval.

    Raises:
        ContradictionError: an image is certified to the last bit, but not by intervals.
        TypeError, ValueError: as ``sound_certificates``; or ``certified`` is not one bool per
            image.
    """
    if not isinstance(certified, Tensor) or certified.dtype != torch.bool:
        raise TypeError(
            f"sound_columns: certified must be a tensor of bools; got {shown(certified)}. Pass the "
            "result of interval_certified."
        )
    sound, lower = sound_certificates(net, images, labels, eps, radii)
    if certified.shape != sound.shape:
        raise ValueError(
            f"sound_columns: certified must have shape {tuple(sound.shape)}, one for each image; "
            f"got {tuple(certified.shape)}."
        )
    wrong = (sound & ~certified).nonzero().flatten().tolist()
    if wrong:
        raise ContradictionError(
            f"certified_sound must imply certified_interval; it does not at image {wrong[0]} of "
            f"these {len(labels)}, at eps {eps}. The verdicts come from different weights or "
            "images, or one of the two bounds is wrong: please report it."
        )
    return {"sound_radius": lower, "certified_sound": sound}


def _batches(
    images: ImageSet, batch_size: int, part: slice = slice(None)
) -> Iterator[tuple[Tensor, Tensor]]:
    rows = range(len(images))[part]
    for start in range(rows.start, rows.stop, batch_size):
        chosen = slice(start, min(start + batch_size, rows.stop))
        yield images.images[chosen], images.labels[chosen]
