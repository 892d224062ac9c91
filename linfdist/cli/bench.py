"""``python -m linfdist bench``: time the cases one by one, save each, and print tables."""

import argparse
import math
import sys
import time
from collections.abc import Callable, Iterator
from functools import partial
from itertools import product

import pandas as pd
import torch
from tqdm import tqdm

from linfdist.bench import distances, iterations, peers, roofline
from linfdist.bench.file import Results, refuse_existing, try_writing
from linfdist.bench.timing import Row
from linfdist.cli import bench_epochs
from linfdist.cli.arguments import Exit, file
from linfdist.records import environment
from linfdist.system import devices

DESCRIPTION = """\
Time training steps and single distance operations, beside torch.cdist and
torch.compile, and on a CPU also beside numba and scipy. A GPU times the paper's
networks and shapes; a CPU times smaller ones.

  python -m linfdist bench --quick
  python -m linfdist bench --json runs/bench/my-cpu.json
  python -m linfdist bench --json runs/bench/h100.json --seconds 300 --resume
  python -m linfdist bench --peer my_kernels:distance
  python -m linfdist bench epochs --help    time Table 4's epochs instead

The command prints tables; with --json it also writes them to a file after each
case. It compares every peer's result with ours before it times the peer.

--peer names a function distance(x, weight, p) in an installed module or in the
working directory. x has shape (batch, in), weight has shape (out, in), and the
result has shape (batch, out). All are float32 tensors on the device, and
autograd computes the gradients.
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.description = DESCRIPTION
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("--device", help="cpu or cuda; default: the GPU, else the CPU")
    parser.add_argument(
        "--threads", type=int, help="number of CPU threads; default: torch's own choice"
    )
    parser.add_argument(
        "--rounds", type=int, default=5, help="number of timed rounds (default %(default)s)"
    )
    parser.add_argument(
        "--patience",
        type=float,
        default=5.0,
        metavar="SECONDS",
        help="time a candidate slower than this only once (default %(default)s)",
    )
    parser.add_argument(
        "--limit",
        type=float,
        default=60.0,
        metavar="SECONDS",
        help="skip a peer that would take longer at its speed so far (default %(default)s)",
    )
    parser.add_argument(
        "--quick", action="store_true", help="time only the smallest network and shape"
    )
    parser.add_argument(
        "--peer",
        action="append",
        default=[],
        metavar="MODULE:FUNCTION",
        help="also time this distance(x, weight, p); repeat the option for more peers",
    )
    parser.add_argument("--json", type=file, metavar="FILE", help="also write the tables to FILE")
    parser.add_argument(
        "--seconds",
        type=float,
        default=math.inf,
        metavar="N",
        help="start no case after N seconds; exit with code 3 if cases are left",
    )
    parser.add_argument(
        "--resume",
        action="store_true",
        help="continue FILE: keep its cases of this code on this device, replace all others",
    )
    parser.set_defaults(action=main)
    others = parser.add_subparsers(metavar="epochs")
    bench_epochs.add_arguments(
        others.add_parser("epochs", help="time the training epochs of Table 4's methods instead")
    )


def main(args: argparse.Namespace) -> int:
    """Time the cases, print the tables, and write them as JSON if ``--json`` is given.

    Returns 0, 3 if the time did not suffice, or 130 after Ctrl-C.
    """
    started = time.monotonic()
    device = devices.usable_device(args.device)
    if args.threads:
        torch.set_num_threads(args.threads)
    if not args.resume:
        refuse_existing(args.json)
    try_writing(args.json)
    distances.small_check(device)
    results = Results(args.json, environment.describe(device), roofline.hardware(device))
    if args.resume:
        results.resume()
    extra = peers.load(args.peer)
    left = [
        (case, run)
        for case, names, run in _cases(args, device, extra, results)
        if not results.has(case, names)
    ]
    done = 0
    interrupted = False
    try:
        for _, run in tqdm(left, unit="case"):
            if time.monotonic() - started > args.seconds:
                break
            run()
            done += 1
    except KeyboardInterrupt:
        interrupted = True
    _print(results, device)
    if args.json:
        print(f"Written to {args.json}.")
    if done == len(left):
        return 0
    print(f"{len(left) - done} cases are left; --resume measures them.", file=sys.stderr)
    return Exit.INTERRUPTED if interrupted else Exit.OUT_OF_TIME


def _cases(
    args: argparse.Namespace,
    device: torch.device,
    extra: dict[str, peers.Peer],
    results: Results,
) -> Iterator[tuple[Row, list[str], Callable[[], None]]]:
    """Yield each case, the candidates that it must have, and a function that runs it.

    The training steps come first, then the distances from small to large.
    """
    how = {"device": device, "rounds": args.rounds, "patience": args.patience}
    how["hardware"] = results.hardware
    scale = iterations.SCALE_OF_DEVICE[device.type]

    def time_step(case: Row, net: str, p: float) -> None:
        results.add(case, iterations=iterations.measure(net, scale, p, **how))

    def time_distance(case: Row, shape: tuple[int, int, int], p: float, backward: bool) -> None:
        how_fast = results.speeds(case["p"], case["pass"])
        rows = distances.measure(
            shape, p, backward, limit=args.limit, speeds=how_fast, extra=extra, **how
        )
        results.add(case, rows=rows)

    only = 1 if args.quick else None
    for net, p in product(iterations.NETS[:only], distances.P_VALUES):
        case = iterations.case(net, scale, p)
        yield case, [peers.OURS], partial(time_step, case, net, p)
    shapes = distances.BENCH_SHAPES[device.type][:only]
    for given in product(shapes, distances.P_VALUES, (False, True)):
        case = distances.case(*given)
        yield case, [peers.OURS, *extra], partial(time_distance, case, *given)


def _print(results: Results, device: torch.device) -> None:
    environment = results.environment
    threads = f", {torch.get_num_threads()} threads" if device.type == "cpu" else ""
    print(f"{environment['device']}{threads}, {environment['backend']}, float32")
    if results.hardware is not None:
        print(results.hardware)
    for rows in (results.iterations, results.rows):
        if rows:
            table = pd.DataFrame(rows).fillna({"note": ""})
            print("\n" + table.to_string(index=False, float_format="{:.4g}".format, na_rep="-"))
