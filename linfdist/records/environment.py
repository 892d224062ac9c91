"""The environment of a measurement: commit, versions, device and backend."""

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
    """git cannot tell the commit of the code's own checkout; the commit is recorded as null."""


def describe(device: torch.device | str) -> dict[str, Any]:
    """The commit, the versions, the device and the backend of the operations, ready for JSON.

    ``dirty`` says whether a file of the code differs from the commit; recorded runs do not count.
    ``commit`` and ``dirty`` are None if the package is not imported from its own git checkout.
    They are also None if git fails in that checkout; a CommitWarning then says why.
    """
    device = torch.device(device)
    commit, changed = _commit_and_changes()
    return {
        "commit": commit,
        "dirty": None if changed is None else changed != "",
        "versions": {
            "python": platform.python_version(),
            "torch": str(torch.__version__),  # a subclass of str, which checkpoints cannot hold
            "linfdist": version("linfdist"),
            "numpy": np.__version__,
        },
        "platform": f"{platform.system()} {platform.machine()}",
        "device": device_name(device),
        "threads": torch.get_num_threads(),
        "backend": ops.backend(device),
    }


def code_sha256(*folders: str) -> str:
    """A hash of the source files in the given folders of the checkout, independent of git.

    It also covers the files that define the build: CMakeLists.txt and pyproject.toml.
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
    """HEAD of the package's own checkout, and the code files that differ from it."""
    checkout = paths.checkout()
    if checkout is None:  # a checkout in the working directory need not be this code
        return None, None
    try:
        top = _git(checkout, "rev-parse", "--show-toplevel")
        if not Path(top).samefile(checkout):  # unpacked inside another project's checkout
            return None, None
        code = ("linfdist", "pyproject.toml")
        commit = _git(checkout, "rev-parse", "HEAD")
        return commit, _git(checkout, "status", "--porcelain", "--", *code)
    except (OSError, subprocess.CalledProcessError) as error:
        if (checkout / ".git").exists():
            said = (getattr(error, "stderr", None) or str(error)).strip().partition("\n")[0]
            warnings.warn(
                f"{checkout}: git cannot tell its commit, so the record says null ({said}). "
                "Install git, or repair the checkout.",
                CommitWarning,
                stacklevel=3,
            )
        return None, None


def _git(checkout: Path, *arguments: str) -> str:
    """The output of git for the checkout, with any GIT_DIR ignored and for any owner.

    git refuses a checkout that belongs to another user, because its settings can run programs.
    That protects nothing here: the code of the checkout is already running.
    """
    own = {name: value for name, value in os.environ.items() if not name.startswith("GIT_")}
    command = ["git", "-C", str(checkout), "-c", f"safe.directory={checkout}", *arguments]
    answer = subprocess.run(command, capture_output=True, text=True, check=True, env=own)
    return answer.stdout.strip()
