"""``python -m linfdist recertify``: add last-bit certificates to older recorded runs."""

import argparse
import sys

from linfdist.cli.arguments import Exit, add_device, add_scale, seed

DESCRIPTION = """\
Add last-bit certificates to recorded runs: bounds that hold in real numbers and
in float32, whatever the rounding.

  python -m linfdist recertify table1                     every run of a table
  python -m linfdist recertify table1/mnist_net --seed 1  one run
  LINFDIST_WORK=/elsewhere python -m linfdist recertify table3 --scale reduced

New runs already have these certificates. For older runs the command adds two
columns to the run's certificates.csv, sound_radius and certified_sound. It
takes the weights from the work folder and checks their SHA-256. From then on
certified_accuracy counts the new certificates, and environment.json says what
computed them. The rest of the record stays unchanged.

A run that has the columns may have a sound_radius below eps for an image that
is certified at eps. The command raises that radius to eps; this needs no
weights.

The command reports a run without its weights, goes on to the next run, and
exits with code 1.
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The arguments of ``python -m linfdist recertify``."""
    parser.description = DESCRIPTION
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument(
        "names", nargs="+", metavar="NAME", help="all, or tables and rows: table1 table1/mnist_net"
    )
    add_scale(parser)
    parser.add_argument("--seed", type=seed, help="only this seed; default: all")
    add_device(parser)
    parser.add_argument("--quiet", action="store_true", help="no progress bar")
    parser.set_defaults(action=main)


def main(args: argparse.Namespace) -> int:
    """Add sound certificates to recorded runs; FAILED if a run failed or no run is recorded."""
    from linfdist import experiments, records
    from linfdist.experiments import batch, recertify
    from linfdist.system import devices

    names = batch.select(args.names)
    if args.scale is not None:
        experiments.check_scale(args.scale)
    runs = [run for name in names for run in records.find_runs(name, args.scale, args.seed)]
    device = devices.usable_device(args.device)
    failed = recertify.recertify_all(runs, device=device, progress=not args.quiet)
    if failed or not runs:
        said = f"Failed: {'; '.join(failed)}." if failed else "No run of these is recorded."
        print(said, file=sys.stderr)
    return Exit.FAILED if failed or not runs else Exit.DONE
