"""A bounded mutation pass, on request: which small changes of the code does no test notice?

    pip install -c constraints.txt -e ".[test,mutation]"
    python tests/mutants.py --minutes 30 linfdist/robust linfdist/optim

Cosmic Ray makes the mutants: another operator, another constant, a branch that is not taken. A
random sample of them is planted, one at a time, in a clone of the committed checkout. The tests of
the mutant's folder then run until one fails: first those whose file is named after the module, then
the quick ones, then all. A mutant that all of them pass has survived, and its diff is printed. The
exit code is 1 if a mutant survived.
"""

import argparse
import difflib
import os
import random
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from cosmic_ray.commands.init import _all_work_items
from cosmic_ray.mutating import use_mutation
from cosmic_ray.plugins import get_operator
from cosmic_ray.work_item import MutationSpec

from linfdist.ops import native

ROOT = Path(__file__).resolve().parents[1]
LEFT_OUT = "ReplaceBinaryOperator_BitOr_"  # the unions of type annotations


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("paths", nargs="+", type=Path, help="modules or folders of linfdist")
    parser.add_argument("--minutes", type=float, default=30, help="default: %(default)s")
    parser.add_argument("--seed", type=int, default=0, help="of the sample (default: 0)")
    args = parser.parse_args()
    end = time.monotonic() + 60 * args.minutes
    survivors, killed = 0, 0
    with tempfile.TemporaryDirectory() as scratch:
        clone = _clone(Path(scratch))
        os.chdir(clone)
        for mutation in _sample(args.paths, args.seed):
            if time.monotonic() > end:
                break
            operator = get_operator(mutation.operator_name)(**mutation.operator_args)
            changed = use_mutation(mutation.module_path, operator, mutation.occurrence)
            with changed as (before, after):
                if after is None or after == before:
                    continue
                survived = _passes(clone, mutation.module_path)
            killed, survivors = killed + (not survived), survivors + survived
            place = f"{mutation.module_path}:{mutation.start_pos[0]}"
            print(f"{'SURVIVED' if survived else 'killed  '} {place} {mutation.operator_name}")
            if survived:
                lines = difflib.unified_diff(before.splitlines(), after.splitlines(), "", "", n=0)
                print("\n".join(line for line in lines if line[:2] not in ("--", "++", "@@")))
            sys.stdout.flush()
    print(f"{killed + survivors} mutants, {killed} killed, {survivors} survived")
    return int(survivors > 0)


def _clone(folder: Path) -> Path:
    """The committed checkout with the compiled module in it, from which ``linfdist`` is imported.

    An editable installation finds the package before PYTHONPATH does, so its finder is removed.
    """
    clone = folder / "clone"
    subprocess.run(["git", "clone", "-q", str(ROOT), str(clone)], check=True)
    shutil.copy(str(native.compiled().__file__), clone / "linfdist" / "ops")
    (clone / "sitecustomize.py").write_text(
        "import sys\n"
        "others = [one for one in sys.meta_path if 'ScikitBuild' not in type(one).__name__]\n"
        "sys.meta_path[:] = others\n"
    )
    command = [sys.executable, "-c", "import linfdist; print(linfdist.__file__)"]
    imported = subprocess.run(
        command, cwd=folder, env=_environment(clone), capture_output=True, text=True, check=True
    )
    if not imported.stdout.startswith(str(clone)):
        raise RuntimeError(f"linfdist must be imported from {clone}; got {imported.stdout}")
    return clone


def _environment(clone: Path) -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": str(clone), "OMP_NUM_THREADS": "1"}


def _sample(paths: list[Path], seed: int) -> list[MutationSpec]:
    """Mutants of the modules in a random order: one for each place and kind of change."""
    modules = [
        module
        for path in paths
        for module in (sorted(path.rglob("*.py")) if path.is_dir() else [path])
    ]
    mutants = [item.mutations[0] for item in _all_work_items(modules, {})]
    random.Random(seed).shuffle(mutants)
    places = {
        (one.module_path, one.start_pos, one.operator_name.partition("_")[0]): one
        for one in mutants
        if LEFT_OUT not in one.operator_name
    }
    mutants = list(places.values())
    random.Random(seed).shuffle(mutants)
    return mutants


def _passes(clone: Path, module: Path) -> bool:
    """Whether the tests that belong to the module pass."""
    folder = clone / "tests" / module.parts[1]
    own = sorted(path for path in folder.rglob("test_*.py") if module.stem in path.stem)
    return all(
        _pytest(clone, *given) in (0, 5)  # 5: no test was selected
        for given in ([*map(str, own)], [str(folder), "-m", "quick"], [str(folder)])
        if given
    )


def _pytest(clone: Path, *arguments: str) -> int:
    command = [sys.executable, "-m", "pytest", "-x", "-q", "-p", "no:cacheprovider", *arguments]
    try:
        done = subprocess.run(
            command, cwd=clone, env=_environment(clone), timeout=300, stdout=subprocess.DEVNULL
        )
    except subprocess.TimeoutExpired:
        return 1  # a mutant that does not end is noticed
    return done.returncode


if __name__ == "__main__":
    sys.exit(main())
