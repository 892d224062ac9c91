"""The command line: python -m linfdist list | run | table | recertify | attack | bench | …"""

import argparse
import sys
from collections.abc import Sequence

DESCRIPTION = """\
Rerun the tables of "Towards Certifying l-infinity Robustness using Neural Networks with
l-inf-dist Neurons" (Zhang et al., ICML 2021).

  python -m linfdist list                                what can be run, and what is recorded
  python -m linfdist run table1/mnist_net --scale smoke  train, evaluate and record one row
  python -m linfdist table 1                             the paper beside what is recorded
  python -m linfdist recertify table1                    last-bit certificates of old records
  python -m linfdist attack table1/mnist_net             is the recorded net as robust as PGD says?
  python -m linfdist bench                               speed of the operations on this machine
  python -m linfdist session --seconds 600 table1/mnist_net
                                                         build, test, bench and train in 10 minutes
"""
EPILOG = """\
LINFDIST_DATA   folder of the data sets (default: ~/.cache/linfdist, downloaded when missing)
LINFDIST_RUNS   folder of the records (default: runs/ in the checkout)
LINFDIST_WORK   folder of checkpoints and weights (default: work/ in the checkout)
                An installed copy of the package has no checkout: both are then in the working
                directory.
OMP_NUM_THREADS threads of a run on a CPU (default: all cores; set it for runs side by side)
"""
LIST_DESCRIPTION = """\
Every experiment at every scale: the seeds that are recorded, and a command that is not.

  python -m linfdist list                            all of it
  python -m linfdist list table1 --scale reduced     a table at one scale
"""
RUN_DESCRIPTION = """\
Train one row of a table, evaluate it on the whole test set and record the result.

A run is recorded once: to repeat it choose another seed, or delete its folder. A run that is
stopped, by Ctrl-C, by a scheduler's SIGTERM or otherwise, goes on from its checkpoint when the same
command is given again: at most a minute of it is lost.

  python -m linfdist run table1/cifar10_net_mlp --scale reduced --seed 1
  python -m linfdist run validation/table1/cifar10_net_mlp             without the test set
  python -m linfdist run table1/cifar10_net_mlp --seconds 600          in parts of ten minutes
  torchrun --nproc-per-node 4 -m linfdist run table1/cifar10_net_mlp   on four GPUs
  snakemake -s runs/Snakefile --cores 2 table1 --config seeds=0-3      many rows and seeds

With "validation/" before its name a row is trained without the last 5,000 of the training images (a
tenth of them where that is fewer) and evaluated on these: it is how settings are chosen. The test
set is not read, the record lies under validation/, and no table shows it.

With --seconds, training stops after that time with a checkpoint and exit code 3 (of which torchrun
makes 1). The call in which training ends evaluates and records as well, however long that takes.

Under torchrun each process trains on its share of every batch; the result is that of one process
up to the order of summation. With --device cpu they share the CPU.
"""
RECERTIFY_DESCRIPTION = """\
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


def parser() -> argparse.ArgumentParser:
    """The parser of all commands."""
    from linfdist.cli import attack as cli_attack
    from linfdist.cli import bench, session
    from linfdist.cli.arguments import seconds, seed
    from linfdist.experiments import SCALES

    top = argparse.ArgumentParser(
        prog="python -m linfdist",
        description=DESCRIPTION,
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    commands = top.add_subparsers(dest="command", required=True, metavar="COMMAND")
    scales = "; ".join(f"{name}: {text}" for name, text in SCALES.items())

    listing = commands.add_parser(
        "list",
        help="every experiment, its scales and what is recorded",
        description=LIST_DESCRIPTION,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    listing.add_argument("names", nargs="*", help="tables or rows: table1 table1/mnist_net")
    listing.add_argument("--scale", help=f"this one only. {scales}")
    listing.set_defaults(action=list_experiments)

    run = commands.add_parser(
        "run",
        help="train, evaluate and record one experiment",
        description=RUN_DESCRIPTION,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    run.add_argument("name", help="an experiment, as `list` shows it: table1/mnist_net")
    run.add_argument("--scale", default="reduced", help=f"default: reduced. {scales}")
    run.add_argument("--seed", type=seed, default=0, help="initialisation, order, augmentation")
    run.add_argument("--device", help="cpu, cuda, cuda:1; default: the GPU if there is one")
    run.add_argument(
        "--seconds", type=seconds, help="train for so long at most, then exit with code 3"
    )
    run.add_argument("--restart", action="store_true", help="drop the checkpoint and start over")
    run.add_argument("--quiet", action="store_true", help="no progress bar")
    run.set_defaults(action=run_experiment)

    table = commands.add_parser("table", help="a table of the paper beside the recorded numbers")
    table.add_argument(
        "number",
        type=int,
        help="1, 2, 3, 7, 9 (results), 4 (times), 5, 8 (networks) or 6 (settings)",
    )
    table.add_argument("--scale", default="reduced", help=f"default: reduced. {scales}")
    table.set_defaults(action=print_table)

    again = commands.add_parser(
        "recertify",
        help="add certificates that no rounding breaks to recorded runs",
        description=RECERTIFY_DESCRIPTION,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    again.add_argument("names", nargs="+", metavar="NAME", help="tables or rows, or all")
    again.add_argument("--scale", help=f"this one only. {scales}")
    again.add_argument("--seed", type=seed, help="this one only")
    again.add_argument("--device", help="cpu, cuda, cuda:1; default: the GPU if there is one")
    again.add_argument("--quiet", action="store_true", help="no progress bar")
    again.set_defaults(action=recertify_runs)

    attack = commands.add_parser("attack", help="attack recorded runs with all that there is")
    cli_attack.add_arguments(attack)

    speed = commands.add_parser("bench", help="speed of the operations beside other libraries")
    bench.add_arguments(speed)

    budget = commands.add_parser("session", help="build, test, bench and train in so many seconds")
    session.add_arguments(budget)
    budget.set_defaults(action=session.main)
    return top


def list_experiments(args: argparse.Namespace) -> int:
    """Print every experiment at every scale: whether it is recorded, and the command to run it."""
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
        for scale in filter(experiment.scales.__contains__, shown):
            seeds = recorded.get((experiment.name, scale), [])
            state = f"seeds {', '.join(map(str, seeds))}" if seeds else "not yet run"
            unused = next(seed for seed in range(len(seeds) + 1) if seed not in seeds)
            print(f"  {scale:<8} {state:<12} {experiment.command(scale, unused)}")
    return 0


def run_experiment(args: argparse.Namespace) -> int:
    """Run one experiment and print its metrics; 3 when its seconds are over."""
    from linfdist import records
    from linfdist.experiments.runner import run
    from linfdist.training import OutOfTime

    try:
        done = run(
            args.name,
            scale=args.scale,
            seed=args.seed,
            device=args.device,
            restart=args.restart,
            progress=not args.quiet,
            seconds=args.seconds,
        )
    except OutOfTime as error:
        print(f"{error}\nTo go on: {_command(args)}", file=sys.stderr)
        return 3
    except KeyboardInterrupt:
        checkpoint = records.work_dir(args.name, args.scale, args.seed) / "checkpoint.pt"
        what = "go on from the last checkpoint" if checkpoint.exists() else "start again"
        kept = "" if checkpoint.exists() else " before a checkpoint was written"
        print(f"\nStopped{kept}. To {what}: {_command(args)}", file=sys.stderr)
        return 130
    if done is not None:
        for name, value in done.metrics.items():
            print(f"{name:<26} {100 * value:6.2f} %")
        print(f"Recorded in {done.path} after {done.seconds / 60:.1f} minutes.")
    return 0


def _command(args: argparse.Namespace) -> str:
    """What goes on with a run: the command that was given, but for --restart."""
    from linfdist.system.distributed import launcher

    command = f"{launcher()} -m linfdist run {args.name} --scale {args.scale} --seed {args.seed}"
    if args.device:
        command += f" --device {args.device}"
    if args.seconds:
        command += f" --seconds {args.seconds:g}"
    return command


def print_table(args: argparse.Namespace) -> int:
    """Print a table of the paper beside what is recorded."""
    from linfdist import report

    print(report.text(args.number, args.scale))
    return 0


def recertify_runs(args: argparse.Namespace) -> int:
    """Add sound certificates to recorded runs; 1 when one of them failed or none is recorded."""
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
    return 1 if failed or not runs else 0


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; 2 for bad input, 3 out of time, 130 by Ctrl-C or SIGTERM.

    2 also where a file cannot be read or written, 1 also where the output's reader has gone.
    """
    from linfdist.system.terminal import drop_unread, prepare_streams

    prepare_streams()
    args = parser().parse_args(arguments)
    from linfdist.bench.peers import PeerError
    from linfdist.cli.session import SessionError
    from linfdist.data import DataError
    from linfdist.experiments import UnknownName
    from linfdist.records import RecordError, RunExists
    from linfdist.system import disk
    from linfdist.system.devices import DeviceError
    from linfdist.system.processes import sigterm_as_interrupt
    from linfdist.training.checkpoint import CheckpointError

    bad_input = (UnknownName, RunExists, RecordError, DataError, CheckpointError, DeviceError)
    try:
        with sigterm_as_interrupt():
            code = args.action(args)
            sys.stdout.flush()
            return code
    except (*bad_input, PeerError, SessionError) as error:
        print(f"python -m linfdist: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("\nStopped; what was finished is kept.", file=sys.stderr)
        return 130
    except BrokenPipeError:  # the reader of the output has gone, as `head` does
        drop_unread()
        return 1
    except OSError as error:
        drop_unread()  # it may be the output's own
        print(f"python -m linfdist: {error}. {disk.advice(error)}.", file=sys.stderr)
        return 2
