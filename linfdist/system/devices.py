"""Devices: which one to use, its name, and its peak memory."""

import os
import platform
import re
import resource
import sys
from pathlib import Path

import torch


class DeviceError(RuntimeError):
    """torch does not know the device, or cannot use it here."""


def usable_device(name: str | torch.device | None = None) -> torch.device:
    """The named device; None stands for the GPU if there is one, else for the CPU.

    Raises:
        DeviceError: torch does not know the device, or cannot allocate on it.
    """
    if name is None:
        name = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        device = torch.device(name)
        torch.zeros(1, device=device).tolist()  # fails on the meta device, which holds no numbers
    except (RuntimeError, AssertionError) as error:  # torch without CUDA asserts
        reason = re.split(r"\n|\.\s|[.!]$", str(error))[0]  # torch's messages can be pages long
        raise DeviceError(
            f"device {str(name)!r} cannot be used: {reason[:150]}. Use cpu, or cuda on a machine "
            "with a GPU and a CUDA build of torch."
        ) from error
    return device


def device_name(device: torch.device | str) -> str:
    """The model of a GPU, or of the CPU with the number of cores that this process may use."""
    device = torch.device(device)
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return f"{_cpu_model()}, {cores} cores"


def peak_memory_mb(device: torch.device | str) -> float:
    """This process's peak memory in MB: allocated on the GPU for CUDA, else resident."""
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
