"""Run the full attack ensemble on recorded runs, and record which image fell to which attack."""

import math
import time
from collections.abc import Mapping
from fractions import Fraction
from typing import Any

import pandas as pd
import torch
from torch import Tensor, nn
from tqdm import tqdm

from linfdist import data, records
from linfdist.baselines import BaselineNet
from linfdist.experiments.runner import load_trained, setting_of
from linfdist.nn import LogSumExp
from linfdist.records import attacks as records_attacks
from linfdist.records import environment
from linfdist.records.attacks import AttackRecord
from linfdist.records.run import Run
from linfdist.robust import Classifier
from linfdist.robust.attacks.ensemble import CONVENTIONAL, GUIDED, AttackSetting
from linfdist.system import devices, values
from linfdist.system.terminal import shows_bar

CERTIFIED = 10  # the number of certified images to attack, those with the smallest radii


ATTACK_BATCH = 256


def attack_run(
    run: Run,
    *,
    images: int | None = None,
    certified: int = CERTIFIED,
    each: bool = False,
    seed: int = 0,
    device: torch.device | str = "cpu",
    progress: bool = True,
    attacks: Mapping[str, AttackSetting] | None = None,
) -> AttackRecord:
    """Attack a run's network on its test images, and record the result.

    Two groups of images are attacked: those that the run's PGD-20 missed and that are not
    certified, and as a check the certified ones with the smallest radii. ``records.certified`` and
    ``records.certified_radii`` define verdicts and radii.

    Args:
        run: the recorded run. Its weights must be in the work folder.
        images: choose among the first ``images`` test images; None for all.
        certified: the number of certified images to attack.
        each: run each attack on all chosen images, so that the attacks can be compared. Otherwise
            each attack meets only the images that survived the attacks before it.
        seed: of the attacks' random choices.
        device: where to compute.
        progress: show a bar in a terminal.
        attacks: the attacks by name, in order. By default ``GUIDED``, or ``CONVENTIONAL`` for a
            network without a p.

    Raises:
        RunExists: an attack on this run is already recorded.
        RecordError: the weights are missing, or are not those of the record.
        TypeError or ValueError: a number has a wrong type or is too small; or the settings of an
            attack cannot be recorded.
    """
    records_attacks.refuse_attack(run)
    if images is not None:
        images = values.whole(images, "attack_run: images", least=1)
    certified = values.whole(certified, "attack_run: certified")
    seed = values.seed(seed, "attack_run")
    each = values.flag(each, "attack_run: each")
    records_attacks.try_attack(run)
    device = devices.usable_device(device)
    net = load_trained(run).to(device)
    setting = setting_of(run)
    eps = setting.eps
    first = run.certificates[:images]
    targets = pick(run, len(first), certified)
    test = setting.test_set()
    indices = torch.tensor(targets["index"].tolist(), device="cpu")
    pixels = data.to_pixels(test.images[indices]).to(device)
    labels = test.labels[indices].to(device)
    attacks = attacks or attacks_on(net)
    settings = {name: _settings(attack) for name, attack in attacks.items()}
    about = {
        "eps": str(eps),
        "images": len(first),
        "certified": int(targets["certified_interval"].sum()),
        "each": each,
        "seed": seed,
        "attacks": values.plain(settings, "attack_run: settings of attacks"),
    }
    table = targets[list(records_attacks.ATTACK_COLUMNS)].reset_index(drop=True)
    table["beaten_by"] = None
    seconds = {}
    quiet = not shows_bar(progress)
    with tqdm(total=len(attacks), disable=quiet, desc=run.experiment, unit="attack") as bar:
        for name, attack in attacks.items():
            started = time.perf_counter()
            left = table["beaten_by"].isna()
            bar.set_postfix_str(f"{name}, {left.sum()} images left")
            rows = range(len(table)) if each else left.to_numpy().nonzero()[0]
            rows = torch.tensor(rows, device="cpu")
            held = survivors(net, pixels[rows], labels[rows], eps, attack, seed)
            table.loc[rows.numpy(), name] = held
            table.loc[left & (table[name] == 0), "beaten_by"] = name
            seconds[name] = round(time.perf_counter() - started, 1)
            bar.update()
    table = table[[*records_attacks.ATTACK_COLUMNS, *attacks, "beaten_by"]]
    about |= {"seconds": seconds, "environment": environment.describe(device)}
    return records_attacks.write_attack(run, table, about)


def attacks_on(net: nn.Module) -> Mapping[str, AttackSetting]:
    """The ensemble for a network: guided by a finite p if the network has a p."""
    return CONVENTIONAL if isinstance(net, BaselineNet) else GUIDED


def pick(run: Run, images: int, certified: int) -> pd.DataFrame:
    """The rows to attack among the first ``images``.

    These are the images that PGD-20 missed and that are not certified, and ``certified`` certified
    images with the smallest radii.
    """
    first = run.certificates[:images]
    sure = records.certified(run)[:images]
    thinnest = records.certified_radii(run)[:images][sure].sort_values(kind="stable")
    open_ = first[(first["survived_pgd"] == 1) & ~sure]
    return pd.concat([open_, first.loc[thinnest.index[:certified]]]).sort_values("index")


def survivors(
    net: Classifier,
    pixels: Tensor,
    labels: Tensor,
    eps: Fraction,
    attack: AttackSetting,
    seed: int,
) -> list[int]:
    """1 for each image that survives the attack, 0 for each other image.

    Args:
        net: the network.
        pixels: the images.
        labels: their classes.
        eps: the radius, in pixels.
        attack: the attack and its arguments.
        seed: of the attack's random choices.
    """
    generator = torch.Generator().manual_seed(seed)
    held: list[int] = []
    for some, theirs in zip(pixels.split(ATTACK_BATCH), labels.split(ATTACK_BATCH), strict=True):
        held += attack(net, some, theirs, eps, generator).survived.int().tolist()
    return held


def _settings(attack: AttackSetting) -> dict[str, Any]:
    """An attack's settings as JSON values; JSON has no infinity."""
    arguments = dict(attack.arguments)
    guide = arguments.get("guide")
    if isinstance(guide, LogSumExp):
        arguments["guide"] = repr(guide)
    elif guide is not None and math.isinf(guide):
        arguments["guide"] = "inf"
    return {"method": attack.method, **arguments}
