"""What a measurement was taken on: commit, versions, device, backend."""

import hashlib
import os
import platform
import subprocess
import warnings
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch

from linfdist import ops
from linfdist.records import paths
from linfdist.system.devices import device_name

SOURCES = {".py", ".cpp", ".h", ".cu", ".cuh"}


class CommitWarning(UserWarning):
    """The commit of the code's own checkout cannot be told, and is recorded as null."""


def describe(device: torch.device | str) -> dict[str, Any]:
    """Commit, versions, device and the backend of the operations, ready for JSON.

    ``dirty`` says whether a file of the code differs from the commit; recorded runs do not count.
    Both are None where the package is not imported from a git checkout of its own; where it is,
    but git does not answer, a CommitWarning says why.
    """
    device = torch.device(device)
    commit, changed = _commit_and_changes()
    return {
        "commit": commit,
        "dirty": None if changed is None else changed != "",
        "versions": {
            "python": platform.python_version(),
            "torch": str(torch.__version__),  # a subclass of str, which no checkpoint may hold
            "linfdist": version("linfdist"),
            "numpy": np.__version__,
        },
        "platform": f"{platform.system()} {platform.machine()}",
        "device": device_name(device),
        "threads": torch.get_num_threads(),
        "backend": ops.backend(device),
    }


def code_sha256(*folders: str) -> str:
    """The code itself, whatever git says of it: a hash of source files in folders of the checkout.

    With them go the files that say how it is built.
    """
    root = Path(__file__).resolve().parents[2]
    files = [root / "linfdist" / "csrc" / "CMakeLists.txt", root / "pyproject.toml"]
    for folder in folders:
        files += (path for path in (root / folder).rglob("*") if path.suffix in SOURCES)
    digest = hashlib.sha256()
    for path in sorted(filter(Path.is_file, files)):
        content = hashlib.sha256(path.read_bytes()).hexdigest()
        digest.update(f"{path.relative_to(root)} {content}\n".encode())
    return digest.hexdigest()


def _commit_and_changes() -> tuple[str | None, str | None]:
    """HEAD of the package's own checkout, and what of the code differs from it."""
    checkout = paths.checkout()
    if checkout is None:  # whatever lies in the working directory is not this code
        return None, None
    try:
        top = _git(checkout, "rev-parse", "--show-toplevel")
        if not Path(top).samefile(checkout):  # sources that were unpacked in another's checkout
            return None, None
        code = ("linfdist", "pyproject.toml")
        commit = _git(checkout, "rev-parse", "HEAD")
        return commit, _git(checkout, "status", "--porcelain", "--", *code)
    except (OSError, subprocess.CalledProcessError) as error:
        if (checkout / ".git").exists():
            said = (getattr(error, "stderr", None) or str(error)).strip().partition("\n")[0]
            warnings.warn(
                f"{checkout}: its commit cannot be told, and is recorded as null ({said}). Install "
                "git, or mend the checkout.",
                CommitWarning,
                stacklevel=3,
            )
        return None, None


def _git(checkout: Path, *arguments: str) -> str:
    """What git says of the checkout itself, whatever a hook's GIT_DIR or the owner is.

    git refuses a checkout of another owner because its settings can run programs; the code that
    runs here is that checkout's already.
    """
    own = {name: value for name, value in os.environ.items() if not name.startswith("GIT_")}
    command = ["git", "-C", str(checkout), "-c", f"safe.directory={checkout}", *arguments]
    answer = subprocess.run(command, capture_output=True, text=True, check=True, env=own)
    return answer.stdout.strip()
