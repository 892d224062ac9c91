"""Train one run with several processes that torchrun starts: one per GPU, or several on one CPU.

Outside ``join`` every function behaves as for a single process and does not communicate.
"""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta

import torch
import torch.distributed as dist
from torch import Tensor

# The longest time that a process waits for another one to read the data or write a checkpoint.
TIMEOUT = timedelta(minutes=30)


@contextmanager
def join(device: torch.device | str | None = None) -> Iterator[torch.device]:
    """Join the processes that torchrun started, and yield the device of this process.

    For "cuda", and for None if there are GPUs, the device is the GPU with the number LOCAL_RANK.
    The processes communicate through nccl for tensors on GPUs, and through gloo for tensors on the
    CPU, such as the values that ``all_gather_float`` sends between the hosts.

    If torchrun did not start this process, or the caller has already initialised a process group,
    the function only looks up the device.

    An error in one process ends all processes, because torchrun stops the others. Only the first
    process that fails raises its error. The others, which wait for it in vain, exit silently.

    Raises:
        DeviceError: the device cannot be used, or there are more processes than GPUs.
    """
    alone = not dist.is_torchelastic_launched() or os.environ["WORLD_SIZE"] == "1"
    if alone or dist.is_initialized():
        yield _own_device(device)
        return
    store, own, number = next(dist.rendezvous("env://"))
    try:
        device = _own_device(device)
        backend = "cpu:gloo,cuda:nccl" if device.type == "cuda" else "gloo"
        dist.init_process_group(backend, store=store, rank=own, world_size=number, timeout=TIMEOUT)
        yield device
    except BaseException:
        if store.add("failed", 1) > 1:
            raise SystemExit(1) from None
        raise
    # Not after an error: with nccl this call is collective, and the others may never reach it.
    dist.destroy_process_group()


def _own_device(name: torch.device | str | None) -> torch.device:
    """The device of this process, which may be one of several on this machine."""
    # Imported here because they import pandas, which nn does not need.
    from linfdist.system.devices import DeviceError, usable_device

    if name is None:
        name = "cuda" if torch.cuda.is_available() else "cpu"
    processes = int(os.environ.get("LOCAL_WORLD_SIZE", 1))
    if processes == 1 or not str(name).startswith("cuda"):
        return usable_device(name)
    if str(name) != "cuda":
        raise DeviceError(
            f"device {str(name)!r} is one GPU, but there are {processes} processes. Use cuda, so "
            "that each process takes its own GPU."
        )
    if processes > torch.cuda.device_count():
        raise DeviceError(
            f"torchrun: --nproc-per-node must be at most the {torch.cuda.device_count()} GPUs "
            f"here; got {processes}. Lower it, or pass --device cpu."
        )
    device = torch.device("cuda", int(os.environ["LOCAL_RANK"]))
    torch.cuda.set_device(device)
    return usable_device(device)


def rank() -> int:
    """The number of this process, from 0. Process 0 writes files and reports."""
    return dist.get_rank() if dist.is_initialized() else 0


def size() -> int:
    """The number of processes."""
    return dist.get_world_size() if dist.is_initialized() else 1


def launcher() -> str:
    """The command that started this process: "python", or "torchrun --nproc-per-node 2"."""
    if not dist.is_torchelastic_launched():
        return "python"
    return f"torchrun --nproc-per-node {os.environ['LOCAL_WORLD_SIZE']}"


def share(number: int) -> slice:
    """This process's contiguous share of ``number`` items; shares differ by at most one item.

    Some shares are empty if there are fewer items than processes.
    """
    return slice(number * rank() // size(), number * (rank() + 1) // size())


def total(tensor: Tensor) -> Tensor:
    """The sum of ``tensor`` over all processes, with the same bits in each process.

    The gradient is the sum of the gradients of all processes. All processes must make their calls
    and the backward passes in the same order. A single process gets its own tensor back.
    """
    return tensor if size() == 1 else _Sum.apply(tensor)


class _Sum(torch.autograd.Function):
    @staticmethod
    def forward(ctx, tensor: Tensor) -> Tensor:
        result = tensor.clone(memory_format=torch.contiguous_format)
        dist.all_reduce(result)
        return result

    @staticmethod
    def backward(ctx, grad: Tensor) -> Tensor:
        return _Sum.apply(grad)


def all_gather_float(value: float) -> list[float]:
    """The value of each process, in order. No process continues until all have called this.

    The communication is between the hosts only and does not wait for a GPU.
    """
    if size() == 1:
        return [value]
    values = torch.zeros(size(), dtype=torch.float64, device="cpu")
    values[rank()] = value
    dist.all_reduce(values)
    return values.tolist()


@contextmanager
def first_process_first() -> Iterator[None]:
    """Run the block in process 0 first, so that the other processes find the files it makes."""
    if rank() > 0:
        all_gather_float(0)
    yield
    if rank() == 0:
        all_gather_float(0)
