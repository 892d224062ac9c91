"""``python -m linfdist session``: all work that needs a GPU, within a budget of seconds.

A session builds, tests, benches and trains. Each step is a process of its own and gets the time
that is left. A step that has succeeded is not repeated for the same code on the same device.
"""

import argparse
import shlex
import shutil
import sys
import time
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime
from importlib.util import find_spec
from pathlib import Path

import torch

from linfdist import experiments, records
from linfdist.bench import epochs_file
from linfdist.bench.file import file_name
from linfdist.cli.arguments import Exit, add_device, seed
from linfdist.records import environment
from linfdist.records.files import named, read_sealed, replace_file, sealed_text, try_file
from linfdist.system import devices, disk
from linfdist.system.processes import run_within

_UNDONE = ". LINFDIST_WORK sets this folder. The results of earlier steps are kept."
DESCRIPTION = """\
Build the package, run the tests that need a GPU, record the bench and train
rows of the paper's tables, one step after the other, within a time budget.

  python -m linfdist session --seconds 600 table1/mnist_net --scale paper
  python -m linfdist session --seconds 600 table1/mnist_net --dry-run

Repeat the command to continue: it skips the steps that are done for this code
on this device, and training continues from its checkpoint. In this way many
short sessions can train a row that takes hours. If a step fails, the session
goes on to the next, unless the build failed.

The bench and the rows land in runs/, the output of each step in a file of
work/session/<time>/.

Exit code: 0 if all is done, 1 if a step failed, 3 if time ran out.
"""
SANITIZED = "tests/ops/test_cuda.py"


class SessionError(ValueError):
    """A session cannot be started with the given arguments."""


@dataclass(frozen=True, kw_only=True)
class SessionStep:
    """One process of a session.

    Args:
        name: the name of the step.
        command: the program and its arguments.
        budgeted: whether the command takes ``--seconds`` and ends by itself, with code 3 if they
            did not suffice.
        essential: whether the session stops if this step fails.
        leaves: the file or folder that exists once the step is done.
        skip: the reason for leaving out the step; empty if it is to be run.
    """

    name: str
    command: tuple[str, ...]
    budgeted: bool = False
    essential: bool = False
    leaves: Path | None = None
    skip: str = ""


@dataclass(frozen=True, kw_only=True)
class StepOutcome:
    """The result of a step; ``code`` is 0, 1 or 3, like the exit code of the whole session."""

    name: str
    seconds: float
    code: int
    result: str


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.description = DESCRIPTION
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("rows", nargs="*", metavar="ROW", help="row to train: table1/mnist_net")
    parser.add_argument(
        "--seconds", type=float, required=True, help="time budget of the whole session"
    )
    parser.add_argument("--scale", default="paper", help="scale of the rows (default %(default)s)")
    parser.add_argument(
        "--seed", type=seed, default=0, help="seed of the rows (default %(default)s)"
    )
    add_device(parser)
    parser.add_argument(
        "--reserve",
        type=float,
        default=20.0,
        metavar="SECONDS",
        help="time kept for starting and saving (default %(default)s)",
    )
    parser.add_argument(
        "--sanitize",
        action="store_true",
        help="also run the kernels' tests under compute-sanitizer",
    )
    parser.add_argument("--epochs", action="store_true", help="also time Table 4's epochs")
    for step in ("build", "tests", "bench"):
        parser.add_argument(f"--no-{step}", action="store_true", help=f"skip the {step}")
    parser.add_argument(
        "--dry-run", action="store_true", help="print the steps without running them"
    )
    parser.set_defaults(action=main)


def main(args: argparse.Namespace) -> int:
    """Run the steps and print the result of each."""
    started = time.monotonic()
    if not args.seconds > 2 * args.reserve:
        raise SessionError(
            f"session: --seconds must be more than twice --reserve={args.reserve:g}, the time "
            f"kept for starting and saving; got {args.seconds:g}. Raise --seconds, or lower "
            "--reserve."
        )
    device = devices.usable_device(args.device)
    session = Session(device, deadline=started + args.seconds, reserve=args.reserve)
    steps = plan(args, device)
    if args.dry_run:
        for step in steps:
            print(f"{step.name}: {session.why_not(step) or shlex.join(step.command)}")
        return 0
    session.try_writing(steps)
    outcomes: list[StepOutcome] = []
    try:
        for step in steps:
            outcomes.append(session.run(step))
            if step.essential and outcomes[-1].code:
                break
    except KeyboardInterrupt:
        print("Interrupted. Repeat the same command to continue.", file=sys.stderr)
        return Exit.INTERRUPTED
    finally:
        _print(outcomes, session.folder)
    codes = {outcome.code for outcome in outcomes}
    return 1 if 1 in codes else max(codes, default=0)


def plan(args: argparse.Namespace, device: torch.device) -> list[SessionStep]:
    """The steps of the session, in order.

    Raises:
        SessionError: the package is not imported from a checkout, which the steps need.
        UnknownName: the row or the scale does not exist.
    """
    checkout = records.checkout()
    if checkout is None:
        raise SessionError(
            "session: linfdist must be imported from its checkout, which the session builds and "
            "tests; it is installed as a copy. Run the session in the checkout after "
            "pip install -e ."
        )
    python, on_device = (sys.executable, "-m"), ("--device", str(device))
    pytest = (*python, "pytest", "-q")
    steps = []
    if not args.no_build:
        pip = (*python, "pip", "install", "--no-build-isolation", "--no-deps", "-e", ".")
        steps.append(SessionStep(name="build", command=pip, essential=True))
    if not args.no_tests:
        go_on = "--continue-on-collection-errors"  # a GPU machine may lack some packages
        steps.append(SessionStep(name="tests", command=(*pytest, go_on, *_gpu_tests(checkout))))
    if args.sanitize:
        here = shutil.which("compute-sanitizer") is not None
        skip = "" if here else "skipped: compute-sanitizer is not on PATH"
        for tool in ("memcheck", "racecheck"):
            sanitizer = ("compute-sanitizer", "--tool", tool, "--error-exitcode", "1")
            check = (*sanitizer, *pytest, SANITIZED)
            steps.append(SessionStep(name=tool, command=check, skip=skip))
    if not args.no_bench:
        cpu = device.type == "cpu"
        name = "cpu.json" if cpu else file_name(devices.device_name(device))
        results = records.runs_dir() / "bench" / name
        bench = (*python, "linfdist", "bench", *on_device, "--json", str(results), "--resume")
        steps.append(SessionStep(name="bench", command=bench, budgeted=True, leaves=results))
    if args.epochs:
        experiments.check_scale(args.scale)
        timed = epochs_file.path_of(args.scale, device)
        epochs = (*python, "linfdist", "bench", "epochs", "--scale", args.scale, *on_device)
        resumed = (*epochs, "--resume")
        steps.append(SessionStep(name="epochs", command=resumed, budgeted=True, leaves=timed))
    for row in args.rows:
        experiments.get_setting(row, args.scale)
        recorded = records.run_dir(row, args.scale, args.seed)
        which = (row, "--scale", args.scale, "--seed", str(args.seed))
        command = (*python, "linfdist", "run", *which, *on_device)
        skip = "already recorded" if recorded.exists() else ""
        steps.append(
            SessionStep(name=row, command=command, budgeted=True, leaves=recorded, skip=skip)
        )
    return steps


def _gpu_tests(checkout: Path) -> list[str]:
    """The test files with "cuda" or "gpu" in their names; the other tests run without a GPU."""
    return sorted(
        path.relative_to(checkout).as_posix()
        for pattern in ("test_*cuda*.py", "test_*gpu*.py")
        for path in (checkout / "tests").rglob(pattern)
    )


class Session:
    """Runs steps until ``deadline``, keeps their logs, and remembers the steps that succeeded."""

    def __init__(self, device: torch.device, *, deadline: float, reserve: float) -> None:
        work = records.work_root() / "session"
        self.folder = work / datetime.now().strftime("%Y-%m-%d-%H%M%S")
        self.memory = work / "done.json"
        self.key = f"{devices.device_name(device)}, code {_code()}"
        self.deadline = deadline
        self.reserve = reserve

    def why_not(self, step: SessionStep) -> str:
        """The reason for not running a step, skipped or already done; empty if it is to be run."""
        gone = step.leaves is not None and not step.leaves.exists()
        if step.essential:
            gone = find_spec("linfdist.ops._native") is None
        done = step.name in self._done() and not gone
        return step.skip or ("already done for this code on this device" if done else "")

    def try_writing(self, steps: Iterable[SessionStep]) -> None:
        """Raise RecordError unless the logs, the memory and the steps' results can be written."""
        to_run = [step for step in steps if not self.why_not(step)]
        if to_run:
            with named(self.folder, "be a folder that can be created; creating it failed", _UNDONE):
                disk.try_folder(self.folder)
            try_file(self.memory)
        for left in (step.leaves for step in to_run if step.leaves is not None):
            if left.suffix:
                try_file(left)
            else:
                records.try_recording(left)

    def run(self, step: SessionStep) -> StepOutcome:
        """Run one step within the remaining time."""
        started = time.monotonic()
        left = self.deadline - started - self.reserve
        why_not = self.why_not(step)
        command = step.command
        if step.budgeted:
            command += ("--seconds", f"{left - self.reserve:.0f}")
        if why_not or left < 1 + step.budgeted * self.reserve:
            code = 0 if why_not else Exit.OUT_OF_TIME
            return StepOutcome(
                name=step.name, seconds=0, code=code, result=why_not or "not started: out of time"
            )
        with named(self.folder, "be a folder that can be created; creating it failed", _UNDONE):
            self.folder.mkdir(parents=True, exist_ok=True)
        log = self.folder / f"{step.name.replace('/', '-')}.log"
        print(f"[{left:4.0f} s left] {step.name}: {shlex.join(command)}", flush=True)
        with named(log, "be a file that can be written; writing it failed", _UNDONE):
            output = disk.create(log)
        with output:
            cwd = records.checkout()
            status = run_within(left, command, output, cwd=cwd, grace=self.reserve)
        if status == 0:
            self._remember(step)
        result = _last_line(log)
        if status is None or (status == Exit.OUT_OF_TIME and step.budgeted):
            code, result = Exit.OUT_OF_TIME, f"out of time: {result}"
        elif status:
            code, result = 1, f"failed ({status}): {result}"
        else:
            code = 0
        return StepOutcome(
            name=step.name, seconds=time.monotonic() - started, code=code, result=result
        )

    def _done(self) -> list[str]:
        if not self.memory.is_file():
            return []
        return read_sealed(self.memory).get(self.key, [])

    def _remember(self, step: SessionStep) -> None:
        every = read_sealed(self.memory) if self.memory.is_file() else {}
        every[self.key] = sorted({*self._done(), step.name})
        replace_file(self.memory, sealed_text(every))


def _code() -> str:
    return environment.code_sha256("linfdist", "tests")[:12]


def _last_line(log: Path) -> str:
    lines = [line for line in log.read_text(errors="replace").splitlines() if line.strip()]
    return lines[-1].strip()[:100] if lines else "no output"


def _print(outcomes: list[StepOutcome], folder: Path) -> None:
    width = max((len(outcome.name) for outcome in outcomes), default=4)
    print(f"\n{'step':<{width}}  seconds  result")
    for outcome in outcomes:
        print(f"{outcome.name:<{width}}  {outcome.seconds:7.1f}  {outcome.result}")
    if folder.exists():
        print(f"Output of the steps: {folder}")
