"""``python -m linfdist bench epochs``: time the methods of Table 4, which alternate in rounds."""

import argparse
import sys
import time

import torch
from tqdm import tqdm

from linfdist import experiments
from linfdist.bench import epochs
from linfdist.bench.epochs_file import EpochTimes, path_of
from linfdist.bench.file import refuse_existing, try_writing
from linfdist.cli.arguments import Exit, file, several
from linfdist.experiments import table4
from linfdist.records import environment
from linfdist.system import devices

DESCRIPTION = """\
Time a training epoch of every method of Table 4, on steps in the middle of each
phase of its schedule. Each round times all methods one after the other; the
table shows medians over the rounds.

  python -m linfdist bench epochs --scale reduced
  python -m linfdist bench epochs --scale paper --batch 16     on a CPU
  python -m linfdist bench epochs --scale paper --device cuda

The result is runs/bench/epochs-<scale>-<device>.json, which
`python -m linfdist table 4` reads. The command writes it after each complete
round. It does not overwrite an existing file: pass --resume to continue the
file, or --json runs/bench/epochs-<scale>-mine.json to write another one.
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.description = DESCRIPTION
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument(
        "--scale", default="reduced", help="scale of the networks (default %(default)s)"
    )
    parser.add_argument(
        "--batch", type=several, help="largest number of images per step; default: the recipe's own"
    )
    # These arguments have no default here, so that values given before "epochs" count as well.
    left_out = argparse.SUPPRESS
    parser.add_argument(
        "--device", default=left_out, help="cpu or cuda; default: the GPU, else the CPU"
    )
    parser.add_argument(
        "--threads",
        type=int,
        default=left_out,
        help="number of CPU threads; default: torch's own choice",
    )
    parser.add_argument(
        "--rounds", type=int, default=left_out, help="number of timed rounds (default 5)"
    )
    parser.add_argument(
        "--json", type=file, metavar="FILE", default=left_out, help="write to FILE instead"
    )
    parser.add_argument(
        "--seconds",
        type=float,
        metavar="N",
        help="start no round after N seconds; exit with code 3 if rounds are left",
        default=left_out,
    )
    parser.add_argument(
        "--resume",
        action="store_true",
        help="continue the file: keep its rounds of this code, device and batch, replace others",
        default=left_out,
    )
    parser.set_defaults(action=main)


def main(args: argparse.Namespace) -> int:
    """Time the rounds and write each one when it is complete.

    Returns 0, 2 if the memory of the device did not suffice, 3 if the time did not suffice, or 130
    after Ctrl-C.
    """
    started = time.monotonic()
    experiments.check_scale(args.scale)
    device = devices.usable_device(args.device)
    if args.threads:
        torch.set_num_threads(args.threads)
    times = EpochTimes(
        path=args.json or path_of(args.scale, device),
        environment=environment.describe(device),
        code_sha256=environment.code_sha256("linfdist"),
        scale=args.scale,
        batch=args.batch,
    )
    if args.resume:
        times.resume()
    else:
        refuse_existing(times.path)
    try_writing(times.path)
    interrupted = False
    try:
        while times.rounds < args.rounds and time.monotonic() - started <= args.seconds:
            times.add_round(_round(args, device, times.rounds))
    except KeyboardInterrupt:
        interrupted = True
    except torch.OutOfMemoryError as error:
        said = str(error).splitlines()[0]
        print(f"python -m linfdist: {said} Give a smaller --batch.", file=sys.stderr)
        return 2
    if times.rounds:
        print(f"{times.device}, {times.environment['backend']}; {args.scale} scale, seconds")
        print(times.summary().to_string(float_format="{:.4g}".format))
        print(f"Written to {times.path}.")
    left = args.rounds - times.rounds
    if left <= 0:
        return 0
    print(f"{left} rounds are left; --resume measures them.", file=sys.stderr)
    return Exit.INTERRUPTED if interrupted else Exit.OUT_OF_TIME


def _round(args: argparse.Namespace, device: torch.device, index: int) -> list[epochs.Row]:
    """Time each method once."""
    rows = []
    for row in tqdm(table4.TABLE.rows, desc=f"round {index + 1}/{args.rounds}", unit="method"):
        rows += epochs.measure(row.experiment, args.scale, batch=args.batch, device=device)
    return rows
