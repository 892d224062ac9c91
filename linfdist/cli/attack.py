"""``python -m linfdist attack``: run the full attack ensemble on recorded runs."""

import argparse
import sys

from linfdist import data, experiments, records
from linfdist.cli.arguments import Exit, add_device, count, positive, seed
from linfdist.experiments import batch
from linfdist.experiments.attack import CERTIFIED, attack_run
from linfdist.records import RecordError, RunExists
from linfdist.records.attacks import AttackRecord
from linfdist.records.run import Run
from linfdist.system import devices

DESCRIPTION = """\
Run the full attack ensemble on recorded runs at p = inf. Some of the attacks
take gradients of the same weights at finite p.

  python -m linfdist attack table1/mnist_net --seed 1      one run
  python -m linfdist attack table1 table3/e_net            many rows, seed 0
  python -m linfdist attack table1/mnist_net --images 500  the first 500 images

The command attacks every image that survived the recorded PGD-20 and has no
certificate. As a check it also attacks the certified images with the smallest
radii (--certified): an attack can beat them only if a certificate is wrong.
Once an attack has beaten an image, the others skip it, unless --each is given.

The result is attacks.csv and attacks.json in the run's folder; they are written
once. The weights come from the work folder. If you stop the command, it records
nothing for the current run and keeps the results of the runs before.

Exit code: 1 if a certified image was beaten; otherwise 2 if a run could not be
attacked; otherwise 0.
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The arguments of ``python -m linfdist attack``."""
    parser.description = DESCRIPTION
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("names", nargs="+", help="tables or rows: table1 table1/mnist_net")
    parser.add_argument(
        "--scale", default="reduced", help="scale of the runs (default %(default)s)"
    )
    parser.add_argument(
        "--seed",
        type=seed,
        default=0,
        help="seed of the runs and of the attacks (default %(default)s)",
    )
    parser.add_argument(
        "--images", type=positive, help="attack this many test images, from the first; default: all"
    )
    parser.add_argument(
        "--certified",
        type=count,
        default=CERTIFIED,
        help="number of certified images to attack (default %(default)s)",
    )
    parser.add_argument(
        "--each", action="store_true", help="try every attack on every image, to compare them"
    )
    add_device(parser)
    parser.add_argument("--quiet", action="store_true", help="no progress bar")
    parser.set_defaults(action=main)


def main(args: argparse.Namespace) -> int:
    """Attack every named run; report a run that cannot be attacked and continue with the next."""
    experiments.check_scale(args.scale)
    device = devices.usable_device(args.device)
    failed, broken = 0, 0
    for name in batch.select(args.names):
        try:
            record = attack_run(
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
            print(f"\nStopped; no attack on {name} was recorded.", file=sys.stderr)
            return Exit.INTERRUPTED
        print(_line(record))
        if len(record.unsound):
            broken += 1
            print(_alarm(record), file=sys.stderr)
    return Exit.FAILED if broken else Exit.BAD_INPUT if failed else Exit.DONE


def _recorded(name: str, scale: str, seed: int) -> Run:
    path = records.run_dir(name, scale, seed)
    if not path.exists():
        raise RecordError(
            f"{path} must be a recorded run; there is none. Train it: python -m linfdist run "
            f"{name} --scale {scale} --seed {seed}"
        )
    return records.read_run(path)


def _line(record: AttackRecord) -> str:
    shown = record.accuracies()
    parts = (f"{name} {100 * shown[name]:.2f}" for name in ("clean", "pgd", "strongest"))
    return (
        f"{record.run.experiment} seed {record.run.seed}: {', '.join(parts)}, certified "
        f"{100 * shown['certified']:.2f} % of {record.images} images "
        f"({sum(record.seconds.values()):.0f} s)"
    )


def _alarm(record: AttackRecord) -> str:
    beaten = record.unsound
    return (
        f"UNSOUND: {len(beaten)} certified images of {record.run.path} were beaten, image "
        f"{', '.join(map(str, beaten['index']))}. A certificate is wrong, or the attack left the "
        "ball: either is a bug in this package. Please report it."
    )
