"""Attack recorded runs with the ensemble, and record which image fell to which attack."""

import argparse
import math
import sys
import time
from collections.abc import Mapping
from fractions import Fraction
from typing import Any

import pandas as pd
import torch
from torch import Tensor, nn
from tqdm import tqdm

from linfdist import _values, attacked, batch, data, environment, experiments, records
from linfdist._arguments import count, positive, seed
from linfdist.attacked import Attacked
from linfdist.baselines import BaselineNet
from linfdist.experiments.runner import load_trained, setting_of
from linfdist.nn import LogSumExp
from linfdist.records import RecordError, Run, RunExists
from linfdist.robust.ensemble import CONVENTIONAL, GUIDED, AttackSetting
from linfdist.terminal import shows_bar

CERTIFIED = 10  # how many certified images are attacked, those of the smallest radius first
BATCH = 256
DESCRIPTION = """\
Attack recorded runs at p = inf, with gradients of the same weights at finite p among others.

  python -m linfdist attack table1/mnist_net --seed 1      one run
  python -m linfdist attack table1 table3/e_net            every recorded row, seed 0
  python -m linfdist attack table1/mnist_net --images 500  the first 500 test images

Attacked is every image that the recorded PGD-20 missed and that is not certified, and the
--certified images of the smallest certified radius: those can be beaten only if a certificate is
wrong. An image that is beaten is left alone, but with --each, which compares the attacks.
attacks.csv and attacks.json go beside the record, once; the weights are taken from the work folder.
A run that is stopped leaves nothing, and the runs before it are recorded.

Exit code: 1 if a certified image was beaten; else 2 if a run could not be attacked; else 0.
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The arguments of ``python -m linfdist attack``."""
    parser.description = DESCRIPTION
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("names", nargs="+", help="tables or rows: table1 table1/mnist_net")
    parser.add_argument("--scale", default="reduced", help="default: reduced")
    parser.add_argument("--seed", type=seed, default=0, help="of the run; and of the attacks")
    parser.add_argument(
        "--images", type=positive, help="the first so many test images; default: all"
    )
    parser.add_argument("--certified", type=count, default=CERTIFIED, help=f"default: {CERTIFIED}")
    parser.add_argument("--each", action="store_true", help="every attack on every image")
    parser.add_argument("--device", help="cpu, cuda, cuda:1; default: the GPU if there is one")
    parser.add_argument("--quiet", action="store_true", help="no progress bar")
    parser.set_defaults(action=main)


def main(args: argparse.Namespace) -> int:
    """Attack every named run that can be, and say at the end which could not."""
    experiments.check_scale(args.scale)
    device = environment.usable_device(args.device)
    failed, broken = 0, 0
    for name in batch.select(args.names):
        try:
            found = hunt(
                _recorded(name, args.scale, args.seed),
                images=args.images,
                certified=args.certified,
                each=args.each,
                seed=args.seed,
                device=device,
                progress=not args.quiet,
            )
        except (RecordError, RunExists, data.DataError) as error:
            failed += 1
            print(f"python -m linfdist attack: {name}: {error}", file=sys.stderr)
            continue
        except KeyboardInterrupt:
            print(f"\nStopped; nothing is recorded of {name}.", file=sys.stderr)
            return 130
        print(_line(found))
        if len(found.unsound):
            broken += 1
            print(_alarm(found), file=sys.stderr)
    return 1 if broken else 2 if failed else 0


def _recorded(name: str, scale: str, seed: int) -> Run:
    path = records.run_dir(name, scale, seed)
    if not path.exists():
        raise RecordError(
            f"{path} must be a recorded run; there is none. Train it: python -m linfdist run "
            f"{name} --scale {scale} --seed {seed}"
        )
    return records.read_run(path)


def _line(found: Attacked) -> str:
    shown = found.accuracies()
    parts = (f"{name} {100 * shown[name]:.2f}" for name in ("clean", "pgd", "strongest"))
    return (
        f"{found.run.experiment} seed {found.run.seed}: {', '.join(parts)}, certified "
        f"{100 * shown['certified']:.2f} % of {found.images} images "
        f"({sum(found.seconds.values()):.0f} s)"
    )


def _alarm(found: Attacked) -> str:
    beaten = found.unsound
    return (
        f"UNSOUND: {len(beaten)} certified images of {found.run.path} were beaten, image "
        f"{', '.join(map(str, beaten['index']))}. A certificate is wrong, or the attack left the "
        "ball: that is a bug of this package. Please report it."
    )


def hunt(
    run: Run,
    *,
    images: int | None = None,
    certified: int = CERTIFIED,
    each: bool = False,
    seed: int = 0,
    device: torch.device | str = "cpu",
    progress: bool = True,
    attacks: Mapping[str, AttackSetting] | None = None,
) -> Attacked:
    """Attack the first ``images`` test images of a run with its own weights, and record it.

    Attacked are the images that the run's PGD-20 missed and that are not certified, and
    ``certified`` of the certified ones: those of the smallest radius. Both are as
    ``records.certified`` and ``records.certified_radii`` say. The ``attacks`` are
    ``GUIDED``, or ``CONVENTIONAL`` for a net without a p; each meets the images that are left, or
    with ``each`` all, so that they can be compared.

    Raises:
        RunExists: a hunt on this run is recorded already.
        RecordError: the weights are missing, or not those of the record.
        TypeError or ValueError: a number that is none, or that is too small; attacks whose
            settings cannot be recorded.
    """
    attacked.refuse_attacked(run)
    if images is not None:
        images = _values.whole(images, "hunt: images", least=1)
    certified = _values.whole(certified, "hunt: certified")
    seed = _values.seed(seed, "hunt")
    each = _values.flag(each, "hunt: each")
    attacked.try_attacked(run)
    device = environment.usable_device(device)
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
        "attacks": _values.plain(settings, "hunt: settings of attacks"),
    }
    table = targets[list(attacked.COLUMNS)].reset_index(drop=True)
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
    table = table[[*attacked.COLUMNS, *attacks, "beaten_by"]]
    about |= {"seconds": seconds, "environment": environment.describe(device)}
    return attacked.write_attacked(run, table, about)


def attacks_on(net: nn.Module) -> Mapping[str, AttackSetting]:
    """The ensemble for a network: guided by finite p where it has a p."""
    return CONVENTIONAL if isinstance(net, BaselineNet) else GUIDED


def pick(run: Run, images: int, certified: int) -> pd.DataFrame:
    """The rows to attack: missed by PGD-20 and not certified; and the thinnest certificates."""
    first = run.certificates[:images]
    sure = records.certified(run)[:images]
    thinnest = records.certified_radii(run)[:images][sure].sort_values(kind="stable")
    open_ = first[(first["survived_pgd"] == 1) & ~sure]
    return pd.concat([open_, first.loc[thinnest.index[:certified]]]).sort_values("index")


def survivors(
    net: nn.Module,
    pixels: Tensor,
    labels: Tensor,
    eps: Fraction,
    attack: AttackSetting,
    seed: int,
) -> list[int]:
    """1 for each image that survives an attack, 0 for the others; a batch at a time."""
    generator = torch.Generator().manual_seed(seed)
    held: list[int] = []
    for some, theirs in zip(pixels.split(BATCH), labels.split(BATCH), strict=True):
        held += attack(net, some, theirs, eps, generator).survived.int().tolist()
    return held


def _settings(attack: AttackSetting) -> dict[str, Any]:
    """Ready for JSON, which has no infinity."""
    arguments = dict(attack.arguments)
    guide = arguments.get("guide")
    if isinstance(guide, LogSumExp):
        arguments["guide"] = repr(guide)
    elif guide is not None and math.isinf(guide):
        arguments["guide"] = "inf"
    return {"method": attack.method, **arguments}
