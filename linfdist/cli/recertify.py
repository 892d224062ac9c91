"""``python -m linfdist recertify``: add last-bit certificates to older recorded runs."""

import argparse
import sys

from linfdist.cli.arguments import Exit, add_device, add_scale, seed

DESCRIPTION = """\
Certify recorded runs to the last bit: bounds that no rounding breaks, of real numbers and float32.

Runs of today's code have such certificates. To those of before, this adds the columns sound_radius
and certified_sound of certificates.csv, from the weights that the run left in the work folder,
whose SHA-256 is checked. certified_accuracy counts them from then on, environment.json says what
computed them, and nothing else changes. A run without its weights is named, and the others go on;
the exit code is then 1.

Where a run has the columns, but a sound_radius below eps for an image that is certified at eps,
that radius becomes eps: the record itself says so, and no weights are needed.

  python -m linfdist recertify table1                     all rows, scales and seeds of a table
  python -m linfdist recertify table1/mnist_net --seed 1  one run
  LINFDIST_WORK=/elsewhere python -m linfdist recertify table3 --scale reduced
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The arguments of ``python -m linfdist recertify``."""
    parser.description = DESCRIPTION
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("names", nargs="+", metavar="NAME", help="tables or rows, or all")
    add_scale(parser)
    parser.add_argument("--seed", type=seed, help="this one only")
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
        said = f"Failed: {'; '.join(failed)}." if failed else "Nothing of this is recorded."
        print(said, file=sys.stderr)
    return Exit.FAILED if failed or not runs else Exit.DONE
