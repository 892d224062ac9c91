"""What a measurement was taken on: code, versions, device, memory."""

import hashlib
import os
import platform
import resource
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch

from linfdist import ops, records

SOURCES = {".py", ".cpp", ".h", ".cu", ".cuh"}


class DeviceError(RuntimeError):
    """A device that torch does not know or cannot use here."""


def usable_device(name: str | torch.device | None = None) -> torch.device:
    """The named device; None is the GPU if there is one, else the CPU.

    Raises:
        DeviceError: torch does not know the device, or cannot allocate on it.
    """
    if name is None:
        name = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        device = torch.device(name)
        torch.empty(1, device=device)
    except (RuntimeError, AssertionError) as error:  # torch without CUDA asserts
        reason = str(error).partition("\n")[0]
        raise DeviceError(
            f"device {str(name)!r} cannot be used: {reason.rstrip('.')}. Use cpu, or cuda on a "
            "machine with a GPU and a CUDA build of torch."
        ) from error
    return device


def describe(device: torch.device | str) -> dict[str, Any]:
    """Commit, versions, device and the backend of the operations, ready for JSON.

    ``dirty`` says whether a file of the code differs from the commit; recorded runs do not count.
    Both are None where the package is not imported from a git checkout of its own.
    """
    device = torch.device(device)
    commit = _git("rev-parse", "HEAD")
    changed = _git("status", "--porcelain", "--", "linfdist", "pyproject.toml", "CMakeLists.txt")
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


def _git(*arguments: str) -> str | None:
    checkout = records.checkout()
    if checkout is None:  # whatever lies in the working directory is not this code
        return None
    command = ["git", "-C", str(checkout), *arguments]
    try:
        answer = subprocess.run(command, capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        return None
    return answer.stdout.strip()
