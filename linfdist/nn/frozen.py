"""Use a network without changing it."""

import copy
import types
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, TypeVar, cast

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from linfdist.ops.precision import ieee_float32

# The attributes in which torch's own wrappers keep the network that they run.
WRAPPED = ("_orig_mod", "module")

Network = TypeVar("Network")  # an nn.Module, or a protocol that describes one


@contextmanager
def frozen(net: Network) -> Iterator[Network]:
    """A replica of ``net`` in evaluation mode, with parameters that require no gradient.

    Use the replica inside the context. ``net`` itself stays unchanged, so any number of threads may
    freeze it at once. Inside the context float32 arithmetic is IEEE 754's (``ieee_float32``),
    whatever autocast and torch's precision settings say.
    """
    with ieee_float32():
        yield replica(net)


def replica(net: Network, *, training: bool = False) -> Network:
    """New modules for ``net``, all in one mode, that share the memory of its parameters.

    - Parameters are detached and require no gradient.
    - A parametrised weight, such as GroupSort's projected one, is computed once and is then an
      ordinary parameter.
    - Buffers are shared in evaluation mode. Training mode changes buffers, so there the replica has
      copies of its own.

    Raises:
        TypeError: a module's forward pass is bound to the original: ``torch.compile`` or
            ``torch.jit`` made the module, or its ``forward`` is set on the instance.
    """
    with torch.inference_mode(False), torch.no_grad():
        # A replica has the class of the original.
        return cast(Network, _twin(cast(nn.Module, net), training, {}))


def refuse_wrapped(net: object, caller: str) -> None:
    """Raise TypeError for a torch wrapper of a network, such as ``torch.compile``'s result."""
    if isinstance(net, nn.Module) and not _kind(net).__module__.startswith("torch."):
        return
    hint = "Pass a network of linfdist.nn or linfdist.baselines, or a linfdist.robust.Classifier."
    for name in WRAPPED:
        if name in getattr(net, "_modules", {}):
            hint = f"Pass the network inside, its .{name}."
    raise TypeError(f"{caller}: net must be a network itself; got {type(net).__name__}. {hint}")


def _twin(module: nn.Module, training: bool, known: dict[int, Any]) -> nn.Module:
    """A replica of ``module`` and its parts; a shared part is shared in the replica too."""
    if id(module) in known:
        return known[id(module)]
    _refuse_bound(module)
    twin = known[id(module)] = object.__new__(_kind(module))
    # Writing to vars() bypasses nn.Module.__setattr__. Copied tables keep changes in the twin.
    inside = vars(twin)
    for name, value in vars(module).items():
        if isinstance(value, dict | set):
            value = copy.copy(value)
        elif isinstance(value, types.MethodType) and value.__self__ is module:
            value = types.MethodType(value.__func__, twin)
        inside[name] = value
    inside["training"] = training
    inside["_compiled_call_impl"] = None  # net.compile() bound it to the original
    for name, child in module._modules.items():
        if child is not None:
            # A parametrisation is a function of the weight: it always runs in evaluation mode.
            its = training and name != "parametrizations"
            twin._modules[name] = _twin(child, its, known)
    for name, parameter in module._parameters.items():
        if parameter is not None:
            twin._parameters[name] = _alias(parameter, known)
    if training:
        for name, buffer in module._buffers.items():
            if buffer is not None:
                twin._buffers[name] = known.setdefault(id(buffer), buffer.clone())
    if parametrize.is_parametrized(module):
        parametrizations: Any = twin._modules.pop("parametrizations")
        for name, values in parametrizations.items():
            twin._parameters[name] = nn.Parameter(values(), requires_grad=False)
    return twin


def _kind(module: nn.Module) -> type[nn.Module]:
    """The module's class, or its class before its weight was parametrised."""
    kind = type(module)
    return kind.__bases__[0] if parametrize.is_parametrized(module) else kind


def _alias(parameter: Tensor, known: dict[int, Any]) -> nn.Parameter:
    if id(parameter) not in known:
        known[id(parameter)] = nn.Parameter(parameter.detach(), requires_grad=False)
    return known[id(parameter)]


def _refuse_bound(module: nn.Module) -> None:
    """Raise TypeError for a module whose replica would run the original."""
    forward = vars(module).get("forward")
    own = isinstance(forward, types.MethodType) and forward.__self__ is module
    compiled = "_orig_mod" in module._modules or isinstance(module, torch.jit.ScriptModule)
    if compiled or not (forward is None or own):
        how = "is compiled" if compiled else "has a forward set on the instance"
        raise TypeError(
            "frozen: every module of a network must run by its class's forward; "
            f"{type(module).__name__} {how}. Pass the original network."
        )
