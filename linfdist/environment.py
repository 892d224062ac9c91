"""What a measurement was taken on: code, versions, device, memory."""

import hashlib
import os
import platform
import re
import resource
import subprocess
import sys
import warnings
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch

from linfdist import ops, records

SOURCES = {".py", ".cpp", ".h", ".cu", ".cuh"}


class DeviceError(RuntimeError):
    """A device that torch does not know or cannot use here."""


class CommitWarning(UserWarning):
    """The commit of the code's own checkout cannot be told, and is recorded as null."""


def usable_device(name: str | torch.device | None = None) -> torch.device:
    """The named device; None is the GPU if there is one, else the CPU.

    Raises:
        DeviceError: torch does not know the device, or cannot allocate on it.
    """
    if name is None:
        name = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        device = torch.device(name)
        torch.zeros(1, device=device).tolist()  # the meta device has no numbers to give back
    except (RuntimeError, AssertionError) as error:  # torch without CUDA asserts
        reason = re.split(r"\n|\.\s|[.!]$", str(error))[0]  # torch goes on for pages
        raise DeviceError(
            f"device {str(name)!r} cannot be used: {reason[:150]}. Use cpu, or cuda on a machine "
            "with a GPU and a CUDA build of torch."
        ) from error
    return device


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
    root = Path(__file__).resolve().parents[1]
    files = [root / "CMakeLists.txt", root / "pyproject.toml"]
    for folder in folders:
        files += (path for path in (root / folder).rglob("*") if path.suffix in SOURCES)
    digest = hashlib.sha256()
    for path in sorted(filter(Path.is_file, files)):
        content = hashlib.sha256(path.read_bytes()).hexdigest()
        digest.update(f"{path.relative_to(root)} {content}\n".encode())
    return digest.hexdigest()


def device_name(device: torch.device | str) -> str:
    """The model of a GPU, or of the CPU with the number of cores that this process may use."""
    device = torch.device(device)
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return f"{_cpu_model()}, {cores} cores"


def peak_memory_mb(device: torch.device | str) -> float:
    """The most memory that this process has held: on the GPU for CUDA, else resident, in MB."""
    device = torch.device(device)
    if device.type == "cuda":
        return round(torch.cuda.max_memory_allocated(device) / 1e6, 1)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    bytes_per_unit = 1 if sys.platform == "darwin" else 1024
    return round(peak * bytes_per_unit / 1e6, 1)


def _cpu_model() -> str:
    table = Path("/proc/cpuinfo")
    if table.is_file():
        for line in table.read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def _commit_and_changes() -> tuple[str | None, str | None]:
    """HEAD of the package's own checkout, and what of the code differs from it."""
    checkout = records.checkout()
    if checkout is None:  # whatever lies in the working directory is not this code
        return None, None
    try:
        top = _git(checkout, "rev-parse", "--show-toplevel")
        if not Path(top).samefile(checkout):  # sources that were unpacked in another's checkout
            return None, None
        code = ("linfdist", "pyproject.toml", "CMakeLists.txt")
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
