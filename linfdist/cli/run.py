"""``python -m linfdist run``: train, evaluate and record one row of a table."""

import argparse
import sys

from linfdist.cli.arguments import Exit, add_device, add_scale, seconds, seed

DESCRIPTION = """\
Train one row of a table, evaluate it on the whole test set and record the
result in runs/<table>/<row>/<scale>/seed<k>/ (LINFDIST_RUNS replaces runs/).

  python -m linfdist run table1/mnist_net --scale smoke
      a tiny run, in seconds
  python -m linfdist run table1/cifar10_net_mlp --scale reduced --seed 1
      a run on the real data
  python -m linfdist run validation/table1/cifar10_net_mlp
      without the test set, to choose settings
  python -m linfdist run table1/cifar10_net_mlp --seconds 600
      in parts of ten minutes
  torchrun --nproc-per-node 4 -m linfdist run table1/cifar10_net_mlp
      on four GPUs
  snakemake -s runs/Snakefile --cores 2 table1 --config seeds=0-3
      many rows and seeds

A run is recorded only once. To repeat it, choose another seed or delete its
folder. If Ctrl-C, SIGTERM or a crash stops a run, give the same command again:
it continues from the checkpoint and loses at most a minute.

With --seconds, training stops after that time, saves a checkpoint and exits
with code 3 (torchrun turns this into 1). The call that finishes the training
also evaluates and records, however long that takes.

With "validation/" before its name, a row is trained without the last 5,000
training images (without a tenth, if that is fewer) and evaluated on them. The
run does not read the test set. Its record lies under runs/validation/, and no
table shows it.

Under torchrun each process trains on its share of every batch. The result is
that of a single process, up to floating-point summation order. With
--device cpu the processes share the CPU.
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The arguments of ``python -m linfdist run``."""
    parser.description = DESCRIPTION
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument(
        "name", help="an experiment from `python -m linfdist list`: table1/mnist_net"
    )
    add_scale(parser, default="reduced")
    parser.add_argument(
        "--seed",
        type=seed,
        default=0,
        help="seed of the weights, the order and the augmentation (default %(default)s)",
    )
    add_device(parser)
    parser.add_argument(
        "--seconds", type=seconds, help="stop training after this time and exit with code 3"
    )
    parser.add_argument(
        "--restart", action="store_true", help="delete the checkpoint and start over"
    )
    parser.add_argument("--quiet", action="store_true", help="no progress bar")
    parser.set_defaults(action=main)


def main(args: argparse.Namespace) -> int:
    """Run one experiment and print its metrics; OUT_OF_TIME if ``--seconds`` did not suffice."""
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
        print(f"{error}\nTo continue: {_command(args)}", file=sys.stderr)
        return Exit.OUT_OF_TIME
    except KeyboardInterrupt:
        checkpoint = records.work_dir(args.name, args.scale, args.seed) / "checkpoint.pt"
        what = "continue from the last checkpoint" if checkpoint.exists() else "start again"
        kept = "" if checkpoint.exists() else " before a checkpoint was written"
        print(f"\nStopped{kept}. To {what}: {_command(args)}", file=sys.stderr)
        return Exit.INTERRUPTED
    if done is not None:
        for name, value in done.metrics.items():
            print(f"{name:<26} {100 * value:6.2f} %")
        print(f"Recorded in {done.path} after {done.seconds / 60:.1f} minutes.")
    return Exit.DONE


def _command(args: argparse.Namespace) -> str:
    """The command that continues a run: the given command without --restart."""
    from linfdist.system.distributed import launcher

    command = f"{launcher()} -m linfdist run {args.name} --scale {args.scale} --seed {args.seed}"
    if args.device:
        command += f" --device {args.device}"
    if args.seconds:
        command += f" --seconds {args.seconds:g}"
    return command
