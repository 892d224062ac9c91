"""``python -m linfdist list``: the experiments that can be run, and the recorded runs."""

import argparse

from linfdist.cli.arguments import Exit, add_scale

DESCRIPTION = """\
List every experiment at every scale: the seeds on record, and a command that
records another seed.

  python -m linfdist list                           every experiment
  python -m linfdist list table1 --scale reduced    one table at one scale

The command only prints; it reads the records in LINFDIST_RUNS (default: runs/).
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The arguments of ``python -m linfdist list``."""
    parser.description = DESCRIPTION
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("names", nargs="*", help="tables or rows: table1 table1/mnist_net")
    add_scale(parser)
    parser.set_defaults(action=main)


def main(args: argparse.Namespace) -> int:
    """Print every experiment at every scale with its recorded seeds and the command to run it."""
    from linfdist import experiments, records
    from linfdist.experiments import batch

    names = batch.select(args.names)
    if args.scale is not None:
        experiments.check_scale(args.scale)
    recorded: dict[tuple[str, str], list[int]] = {}
    for run in (run for name in names for run in records.find_runs(name)):
        recorded.setdefault((run.experiment, run.scale), []).append(run.seed)
    shown = [scale for scale in experiments.SCALES if args.scale in (None, scale)]
    for scale in shown:
        print(f"{scale}: {experiments.SCALES[scale]}")
    for experiment in map(experiments.get, names):
        print(f"\n{experiment.name}: {experiment.title} on {experiment.dataset}")
        for scale in (scale for scale in shown if scale in experiment.scales):
            seeds = recorded.get((experiment.name, scale), [])
            state = f"seeds {', '.join(map(str, seeds))}" if seeds else "not yet run"
            unused = next(seed for seed in range(len(seeds) + 1) if seed not in seeds)
            print(f"  {scale:<8} {state:<12} {experiment.command(scale, unused)}")
    return Exit.DONE
