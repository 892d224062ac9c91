"""``python -m linfdist run``: train, evaluate and record one row of a table."""

import argparse
import sys

from linfdist.cli.arguments import Exit, add_device, add_scale, seconds, seed

DESCRIPTION = """\
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


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The arguments of ``python -m linfdist run``."""
    parser.description = DESCRIPTION
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("name", help="an experiment, as `list` shows it: table1/mnist_net")
    add_scale(parser, default="reduced")
    parser.add_argument("--seed", type=seed, default=0, help="initialisation, order, augmentation")
    add_device(parser)
    parser.add_argument(
        "--seconds", type=seconds, help="train for so long at most, then exit with code 3"
    )
    parser.add_argument("--restart", action="store_true", help="drop the checkpoint and start over")
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
        print(f"{error}\nTo go on: {_command(args)}", file=sys.stderr)
        return Exit.OUT_OF_TIME
    except KeyboardInterrupt:
        checkpoint = records.work_dir(args.name, args.scale, args.seed) / "checkpoint.pt"
        what = "go on from the last checkpoint" if checkpoint.exists() else "start again"
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
