"""A frozen replica: other modules on the same memory, so that the network is not touched."""

import copy
import math
import types

import pytest
import torch
from helpers import small_baselines
from torch import nn
from torch.nn.utils import parametrizations, parametrize

from linfdist.nn import LogSumExp, MeanShift, NetConfig, build_net, frozen, reestimate_mean_shift
from linfdist.nn.frozen import replica

MLP = NetConfig(kind="net_mlp", hidden=(12, 8), mlp_hidden=7)


def small():
    torch.manual_seed(0)
    return build_net(MLP, input_shape=(2, 5, 5), num_classes=4, mean=(0.4, 0.6), std=0.3)


def of(net):
    """All that a replica must leave alone, by value and by identity."""
    return [
        (
            id(module),
            type(module),
            module.training,
            {name: id(value) for name, value in vars(module).items()},
            {name: (id(v), v._version, v.requires_grad, v.grad) for name, v in tensors(module)},
            [(name, len(hooks)) for name, hooks in vars(module).items() if "hooks" in name],
        )
        for module in net.modules()
    ]


def tensors(module):
    for table in (module._parameters, module._buffers):
        yield from ((name, value) for name, value in table.items() if value is not None)


@pytest.mark.parametrize("kind", ["dist", "groupsort", "cnn7_bn", "pvt"])
def test_the_network_is_not_touched(kind):
    net = small() if kind == "dist" else small_baselines.small(kind)
    net.train()
    next(net.children()).eval()
    next(net.parameters()).requires_grad_(False)
    before = of(net)
    x = torch.rand(8, *net.input_shape, dtype=next(net.parameters()).dtype)
    with frozen(net) as still:
        assert of(net) == before
        assert type(still) is type(net) and still is not net
        assert not any(module.training for module in still.modules())
        assert not any(parameter.requires_grad for parameter in still.parameters())
        with torch.no_grad():
            found = still(x)
        still.double().register_forward_hook(lambda *_: None)
        still.train()
    assert of(net) == before
    assert torch.equal(found, copy.deepcopy(net).eval()(x))


def test_the_replica_takes_no_memory_and_sees_changes():
    net = small()
    still = replica(net)
    pairs = zip(net.named_parameters(), still.named_parameters(), strict=True)
    for (name, own), (other, alias) in pairs:
        assert name == other and own.data_ptr() == alias.data_ptr() and alias.grad is None
    with torch.no_grad():
        net.fc2.bias.add_(1)
    assert torch.equal(still.fc2.bias, net.fc2.bias)
    assert list(still.state_dict()) == list(net.state_dict())


def test_what_is_shared_is_shared_in_the_replica():
    first = nn.Linear(3, 3)
    tied = nn.Linear(3, 3)
    tied.weight = first.weight
    still = replica(nn.Sequential(first, nn.ReLU(), first, tied))
    assert still[0] is still[2] and still[3].weight is still[0].weight
    assert still[3].bias is not still[0].bias


def test_a_parametrised_weight_is_computed_once_in_evaluation_mode():
    layer = parametrizations.spectral_norm(nn.Linear(4, 4)).train()
    before = copy.deepcopy(layer.state_dict())
    with frozen(layer) as still:
        assert type(still) is nn.Linear and not parametrize.is_parametrized(still)
        assert torch.equal(still.weight, copy.deepcopy(layer).eval().weight)
    after = layer.state_dict()
    assert all(torch.equal(after[name], value) for name, value in before.items())
    assert parametrize._cache_enabled == 0 and parametrize.is_parametrized(layer)


def test_a_failure_inside_leaves_the_network_alone():
    net = small().train()
    net.fc1.eval()
    before = of(net)
    with pytest.raises(RuntimeError, match="inside"), frozen(net):
        raise RuntimeError("inside")
    assert of(net) == before


def test_methods_and_compiled_calls_are_the_replica_s_own():
    """What is bound to the network would run it, in its own mode."""
    net = small().train()
    net.last_mode = types.MethodType(lambda self: self.training, net)
    net.forward = types.MethodType(type(net).forward, net)
    net.compile(backend="eager")
    before = {name: value.clone() for name, value in net.state_dict().items()}
    with frozen(net) as still, torch.no_grad():
        assert still.last_mode() is False
        still(torch.rand(4, 2, 5, 5))
    assert net.last_mode() is True
    assert all(torch.equal(value, before[name]) for name, value in net.state_dict().items())


def test_what_would_run_the_original_is_refused_by_name():
    net = small()
    net.fc1 = torch.compile(net.fc1, backend="eager")
    with pytest.raises(TypeError, match=r"its class's forward; OptimizedModule is compiled\. Pass"):
        replica(net)
    net = small()
    net.forward = torch.compile(net.forward, backend="eager")
    with pytest.raises(TypeError, match="LinfDistNetMLP has a forward set on the instance"):
        replica(net)
    with pytest.warns((DeprecationWarning, FutureWarning), match="torch.jit.script"):
        scripted = nn.Sequential(torch.jit.script(nn.Linear(2, 2)))
    with pytest.raises(TypeError, match="RecursiveScriptModule is compiled"):
        replica(scripted)


# --- re-estimation -------------------------------------------------------------------------------


def test_reestimation_learns_on_a_replica_and_ends_whole_or_not_at_all():
    net = small()
    before = {name: value.clone() for name, value in net.state_dict().items()}
    whole = of(net)

    def batches():
        yield torch.rand(8, 2, 5, 5)
        assert all(torch.equal(v, before[name]) for name, v in net.state_dict().items())
        raise EOFError

    with pytest.raises(EOFError):
        reestimate_mean_shift(net, batches())
    assert of(net) == whole
    reestimate_mean_shift(net, [torch.rand(8, 2, 5, 5)])
    for name, value in net.state_dict().items():
        assert torch.equal(value, before[name]) == ("running_mean" not in name), name
    shifts = [module for module in net.modules() if isinstance(module, MeanShift)]
    assert {shift.momentum for shift in shifts} == {0.1}


def test_reestimation_at_a_matched_temperature_gives_the_distances_their_means():
    net = small()
    reestimate_mean_shift(net, [torch.rand(64, 2, 5, 5)], LogSumExp(4.0, matched=True))
    means = [layer.distance.mean for layer in net.modules() if hasattr(layer, "distance")]
    assert len(means) == 2 and all(mean is not None and mean > 0 for mean in means)
    assert net(torch.rand(3, 2, 5, 5), math.inf).isfinite().all()
