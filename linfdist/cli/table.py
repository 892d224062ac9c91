"""``python -m linfdist table``: a table of the paper beside the recorded numbers."""

import argparse

from linfdist.cli.arguments import Exit, add_scale


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The arguments of ``python -m linfdist table``."""
    parser.add_argument(
        "number",
        type=int,
        help="1, 2, 3, 7, 9 (results), 4 (times), 5, 8 (networks) or 6 (settings)",
    )
    add_scale(parser, default="reduced")
    parser.set_defaults(action=main)


def main(args: argparse.Namespace) -> int:
    """Print a table of the paper beside the recorded numbers."""
    from linfdist import report

    print(report.text(args.number, args.scale))
    return Exit.DONE
