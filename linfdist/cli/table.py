"""``python -m linfdist table``: a table of the paper beside the recorded numbers."""

import argparse

from linfdist.cli.arguments import Exit, add_scale

DESCRIPTION = """\
Print a table of the paper beside the recorded numbers.

  python -m linfdist table 1                  Table 1 at the reduced scale
  python -m linfdist table 1 --scale paper    Table 1 at the paper's scale

A result is the mean over all recorded seeds. Rows without a record show the
command that records them. The command only prints; it reads the records in
LINFDIST_RUNS (default: runs/).
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The arguments of ``python -m linfdist table``."""
    parser.description = DESCRIPTION
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("number", type=int, help=_numbers())
    add_scale(parser, default="reduced")
    parser.set_defaults(action=main)


def main(args: argparse.Namespace) -> int:
    """Print a table of the paper beside the recorded numbers."""
    from linfdist import report

    print(report.text(args.number, args.scale))
    return Exit.DONE


def _numbers() -> str:
    """The numbers of the tables, grouped by kind: "1, 2, 3, 7, 9 (results), 4 (times) or …"."""
    from linfdist.experiments import TABLES

    numbers: dict[str, list[str]] = {}
    for table in TABLES.values():
        numbers.setdefault(table.kind, []).append(str(table.number))
    *others, last = (f"{', '.join(some)} ({kind})" for kind, some in numbers.items())
    return f"{', '.join(others)} or {last}"
