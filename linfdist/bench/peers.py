"""The peers of our distances: torch.cdist, torch.compile, numba, scipy, and a user's own.

Each peer is a function distance(x, weight, p). The bench times it if it is installed and supports
the case.
"""

import importlib
import math
import os
import sys
from collections.abc import Callable, Mapping
from importlib.util import find_spec
from types import MappingProxyType

import torch
from torch import Tensor

from linfdist.ops import lp_dist, lse_dist

OURS = "linfdist"
# Timed at a real p, to compare a step of l_p with one of LogSumExp, which uses torch's products.
SMOOTHED = {"linfdist.lse_dist": "highest", "linfdist.lse_dist, bfloat16": "medium"}
COMPILED = ("torch.compile", "numba")  # their first call compiles and is not timed
DistanceFunction = Callable[[Tensor, Tensor], Tensor]
Peer = Callable[[Tensor, Tensor, float], Tensor]
NO_PEERS: Mapping[str, Peer] = MappingProxyType({})


class PeerError(ValueError):
    """A peer given by name cannot be used."""


def candidates(
    p: float, backward: bool, device: torch.device, extra: Mapping[str, Peer] = NO_PEERS
) -> dict[str, DistanceFunction | None]:
    """The functions to time, ours first; None marks a peer that is not installed.

    numba and scipy have no gradient and do not run on a GPU. If p is not an integer, the candidates
    of ``SMOOTHED`` are included, although they compute another function.
    """
    contenders: dict[str, DistanceFunction | None] = {
        OURS: lambda x, weight: lp_dist(x, weight, p),
        **{name: _at(peer, p) for name, peer in extra.items()},
        "torch.cdist": lambda x, weight: torch.cdist(x, weight, p=p),
        "torch.compile": _compiled(p),
    }
    if p < math.inf and not p.is_integer():
        contenders |= dict.fromkeys(SMOOTHED, lambda x, weight: lse_dist(x, weight, 1.0))
    if not backward and device.type == "cpu":
        for name, make in (("numba", _numba), ("scipy", _scipy)):
            contenders[name] = make(p) if find_spec(name) else None
    return contenders


def load(names: list[str]) -> dict[str, Peer]:
    """Load the peers named ``module:function``; the working directory is searched too.

    Raises:
        PeerError: a name has another form, or the module or the function does not exist.
    """
    peers: dict[str, Peer] = {}
    sys.path.insert(0, os.getcwd())
    try:
        for name in names:
            module, _, function = name.partition(":")
            if not (module and function):
                raise PeerError(
                    f"bench: --peer must be module:function; got {name!r}. The function is called "
                    "as distance(x, weight, p)."
                )
            try:
                peers[name] = getattr(importlib.import_module(module), function)
            except (ImportError, AttributeError) as error:
                raise PeerError(
                    f"bench: --peer {name} cannot be loaded: {error}. The module must be installed "
                    "or lie in the working directory."
                ) from error
    finally:
        sys.path.pop(0)
    return peers


def _at(peer: Peer, p: float) -> DistanceFunction:
    return lambda x, weight: peer(x, weight, p)


def _broadcast(x: Tensor, weight: Tensor, p: float) -> Tensor:
    """The plain formula; the compiler fuses it, so no intermediate result is stored."""
    difference = (x.unsqueeze(1) - weight).abs()
    if math.isinf(p):
        return difference.amax(-1)
    top = difference.amax(-1, keepdim=True)
    return (difference / top).pow(p).sum(-1).pow(1 / p) * top.squeeze(-1)


def _compiled(p: float) -> DistanceFunction:
    torch.compiler.reset()  # dynamo keeps few variants of a function, and each case is one
    compiled = torch.compile(_broadcast, fullgraph=True, dynamic=False)
    return lambda x, weight: compiled(x, weight, p)


def _numba(p: float) -> DistanceFunction:
    import numba
    import numpy as np

    infinite = math.isinf(p)

    @numba.njit(parallel=True, fastmath={"contract", "nsz", "reassoc", "arcp"})
    def distances(x, weight, out):
        for b in numba.prange(x.shape[0]):
            for j in range(weight.shape[0]):
                total = np.float32(0)
                for i in range(x.shape[1]):
                    d = abs(x[b, i] - weight[j, i])
                    total = max(total, d) if infinite else total + d ** np.float32(p)
                out[b, j] = total if infinite else total ** np.float32(1 / p)

    numba.set_num_threads(torch.get_num_threads())

    def run(x: Tensor, weight: Tensor) -> Tensor:
        out = torch.empty(len(x), len(weight), device="cpu")
        distances(x.numpy(), weight.numpy(), out.numpy())
        return out

    return run


def _scipy(p: float) -> DistanceFunction:
    from scipy.spatial.distance import cdist

    def run(x: Tensor, weight: Tensor) -> Tensor:
        metric = {"metric": "chebyshev"} if math.isinf(p) else {"metric": "minkowski", "p": p}
        return torch.from_numpy(cdist(x.numpy(), weight.numpy(), **metric)).float()

    return run
