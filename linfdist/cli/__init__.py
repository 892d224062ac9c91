"""The command line: python -m linfdist list | run | table | recertify | attack | bench | session.

Each command has a module: ``add_arguments`` declares its arguments, and ``main`` executes it.
"""

import argparse
import sys
from collections.abc import Sequence

from linfdist.cli.arguments import Exit

DESCRIPTION = """\
Train and certify the networks of "Towards Certifying l-infinity Robustness
using Neural Networks with l-inf-dist Neurons" (Zhang et al., ICML 2021), and
print its tables beside the recorded numbers.

  python -m linfdist list
      show every experiment, its seeds on record and its command
  python -m linfdist run table1/mnist_net --scale smoke
      train, evaluate and record one row, in seconds
  python -m linfdist table 1
      print the paper's Table 1 beside the recorded runs
  python -m linfdist attack table1/mnist_net
      run more attacks than the PGD-20 of the table
  python -m linfdist session --seconds 600 table1/mnist_net
      build, test, bench and train on a GPU in ten minutes

python -m linfdist COMMAND --help explains each command.
"""
EPILOG = """\
environment variables:
  LINFDIST_DATA    folder of the data sets (default: ~/.cache/linfdist, or
                   ~/Library/Caches/linfdist on macOS); missing data sets are
                   downloaded
  LINFDIST_RUNS    folder of the records (default: runs/ in the checkout)
  LINFDIST_WORK    folder of checkpoints and weights (default: work/ in the
                   checkout)
  OMP_NUM_THREADS  CPU threads per run (default: all cores; set it when several
                   runs share the machine)

Without a checkout, runs/ and work/ are in the working directory.
"""


def parser() -> argparse.ArgumentParser:
    """The parser of all commands."""
    from linfdist.cli import attack, bench, recertify, run, session, table
    from linfdist.cli import list as listing

    top = argparse.ArgumentParser(
        prog="python -m linfdist",
        description=DESCRIPTION,
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    commands = top.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for name, module, text in (
        ("list", listing, "list every experiment, its scales and its recorded seeds"),
        ("run", run, "train, evaluate and record one experiment"),
        ("table", table, "print a table of the paper beside the recorded numbers"),
        ("recertify", recertify, "add last-bit certificates to older recorded runs"),
        ("attack", attack, "run the full attack ensemble on recorded runs"),
        ("bench", bench, "time the operations beside other libraries"),
        ("session", session, "build, test, bench and train within a time budget"),
    ):
        module.add_arguments(commands.add_parser(name, help=text))
    return top


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit code.

    - 0: the command is done.
    - 1: the command failed, or the reader of its output has ended.
    - 2: the input is bad, or a file cannot be read or written.
    - 3: the time did not suffice.
    - 130: Ctrl-C or SIGTERM stopped the command.
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
        return Exit.BAD_INPUT
    except KeyboardInterrupt:
        print("\nStopped; finished work is kept.", file=sys.stderr)
        return Exit.INTERRUPTED
    except BrokenPipeError:  # the reader of the output has ended, for example `head`
        drop_unread()
        return Exit.FAILED
    except OSError as error:
        drop_unread()  # the error may come from the output itself
        print(f"python -m linfdist: {error}. {disk.advice(error)}.", file=sys.stderr)
        return Exit.BAD_INPUT
