"""Processes forked from one that has imported what is slow to import: 0.1 s each instead of 3 s.

No thread and no kernel runs in the server, so each fork starts its own.
"""

import contextlib
import multiprocessing
import os
import sys
import tempfile
from multiprocessing.context import ForkServerContext
from pathlib import Path
from subprocess import CompletedProcess

SLOW = ("torch._dynamo", "sklearn.datasets", "matplotlib.pyplot", "papermill", "IPython", "pytest")


def context() -> ForkServerContext:
    """Where processes start; a module of tests, whose folder the server cannot know, is imported
    in each.
    """
    found = multiprocessing.get_context("forkserver")
    found.set_forkserver_preload([*SLOW, "linfdist.report", "linfdist.experiments.runner"])
    return found


def call(function, *arguments, environment=()) -> CompletedProcess:
    """Call a function of a module in a fork; ``environment`` is added to its own."""
    with tempfile.TemporaryDirectory() as folder:
        given = (function, arguments, dict(environment), Path(folder))
        process = context().Process(target=_call, args=given)
        process.start()
        process.join()
        code = process.exitcode
        process.close()
        streams = [Path(folder, name).read_text() for name in ("stdout", "stderr")]
    return CompletedProcess(function, code, *streams)


def run_script(script: str, *arguments: str, **environment: str) -> CompletedProcess:
    """As ``python -c script arguments``."""
    return call(_execute, script, arguments, environment=environment)


def _call(function, arguments, environment, folder: Path) -> None:
    os.environ.update(environment)
    for number, name in enumerate(("stdout", "stderr"), 1):
        with (folder / name).open("w") as file:
            os.dup2(file.fileno(), number)
    sys.stdout, sys.stderr = (os.fdopen(number, "w", closefd=False) for number in (1, 2))
    try:
        function(*arguments)
    finally:
        with contextlib.suppress(ValueError):  # the function closed it
            sys.stdout.flush()


def _execute(script: str, arguments: tuple[str, ...]) -> None:
    sys.argv = ["-c", *arguments]
    exec(compile(script, "<script>", "exec"), {"__name__": "__main__"})
