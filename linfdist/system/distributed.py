"""Several processes at one run, as torchrun starts them: one for each GPU, or sharing a CPU.

Outside ``join`` everything here is what it is for a single process, without communication.
"""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta

import torch
import torch.distributed as dist
from torch import Tensor

# The longest that a process waits for the others: while one reads the data or writes a checkpoint.
TIMEOUT = timedelta(minutes=30)


@contextmanager
def join(device: torch.device | str | None = None) -> Iterator[torch.device]:
    """Join the processes that torchrun started, and yield this one's device.

    That is the GPU of its LOCAL_RANK for "cuda" and for None where there are GPUs. They talk by
    nccl on GPUs, and by gloo on CPUs and for what the hosts tell each other. Where torchrun did not
    start this process, or the caller's own group is there already, only the device is looked up.

    One process's error ends all: torchrun stops the others. It is raised where it came first;
    errors that follow in the others, who wait for it in vain, end them without a word.

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
    # Not after an error: nccl's end is collective, and the others may never come to it.
    dist.destroy_process_group()


def _own_device(name: torch.device | str | None) -> torch.device:
    """The device of this process, perhaps one of several on this machine."""
    # Here, because they import pandas, which nn can do without.
    from linfdist.system.devices import DeviceError, usable_device

    if name is None:
        name = "cuda" if torch.cuda.is_available() else "cpu"
    processes = int(os.environ.get("LOCAL_WORLD_SIZE", 1))
    if processes == 1 or not str(name).startswith("cuda"):
        return usable_device(name)
    if str(name) != "cuda":
        raise DeviceError(
            f"device {str(name)!r} is one GPU, for {processes} processes. Use cuda: each process "
            "takes a GPU of its own."
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
    """The number of this process, from 0: the one that writes and reports."""
    return dist.get_rank() if dist.is_initialized() else 0


def size() -> int:
    """The number of processes."""
    return dist.get_world_size() if dist.is_initialized() else 1


def launcher() -> str:
    """What started this process, as it is typed: "python", or "torchrun --nproc-per-node 2"."""
    if not dist.is_torchelastic_launched():
        return "python"
    return f"torchrun --nproc-per-node {os.environ['LOCAL_WORLD_SIZE']}"


def share(number: int) -> slice:
    """This process's part of ``number`` things, one after the other; parts differ by one at most.

    A part is empty where there are fewer things than processes.
    """
    return slice(number * rank() // size(), number * (rank() + 1) // size())


def total(tensor: Tensor) -> Tensor:
    """The sum over all processes, the same bits in each; its gradient is the sum of theirs.

    All processes call it, and its backward pass, in one order. A single process's own tensor is
    returned as it is.
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


def exchange(value: float) -> list[float]:
    """The value of each process, in order; none goes on before all have come here.

    The hosts alone talk: it does not wait for a GPU.
    """
    if size() == 1:
        return [value]
    values = torch.zeros(size(), dtype=torch.float64, device="cpu")
    values[rank()] = value
    dist.all_reduce(values)
    return values.tolist()


@contextmanager
def first_process_first() -> Iterator[None]:
    """Process 0 does what is inside, then the others do: they find the files that it made."""
    if rank() > 0:
        exchange(0)
    yield
    if rank() == 0:
        exchange(0)
