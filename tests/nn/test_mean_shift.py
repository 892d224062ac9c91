"""Mean shift, and its re-estimation at another p."""

import math

import pytest
import torch
from torch import nn

from linfdist.nn import (
    MeanShift,
    NetConfig,
    build_net,
    by_running_means,
    reestimate_mean_shift,
    synchronized,
)

pytestmark = pytest.mark.quick


@pytest.mark.parametrize("shape", [(6, 3), (6, 3, 4, 5)])
def test_training_subtracts_the_batch_mean_of_each_feature(shape):
    shift = MeanShift(3)
    x = torch.randn(*shape) + 5
    out = shift(x)
    axes = [axis for axis in range(len(shape)) if axis != 1]
    torch.testing.assert_close(out.mean(axes), torch.zeros(3), atol=1e-5, rtol=0)
    torch.testing.assert_close(shift.running_mean, 0.1 * x.mean(axes))


def test_running_mean_starts_from_zero_and_moves_by_the_momentum():
    shift = MeanShift(1, momentum=0.25)
    shift(torch.tensor([[4.0], [8.0]]))
    assert shift.running_mean.item() == 1.5
    shift(torch.tensor([[1.0], [3.0]]))
    assert shift.running_mean.item() == 0.75 * 1.5 + 0.25 * 2


def test_evaluation_subtracts_the_running_mean():
    shift = MeanShift(2).eval()
    shift.running_mean.copy_(torch.tensor([1.0, -2.0]))
    x = torch.randn(3, 2)
    assert torch.equal(shift(x), x - torch.tensor([1.0, -2.0]))
    lower, upper = shift.interval(x, x + 1)
    assert torch.equal(lower, shift(x)) and torch.equal(upper, shift(x + 1))


def test_gradient_flows_through_the_batch_mean():
    shift = MeanShift(1)
    x = torch.randn(4, 1, requires_grad=True)
    (gradient,) = torch.autograd.grad(shift(x)[0].sum(), x)
    torch.testing.assert_close(gradient, torch.tensor([[0.75], [-0.25], [-0.25], [-0.25]]))


def test_empty_batch_changes_nothing():
    shift = MeanShift(3)
    assert shift(torch.empty(0, 3)).shape == (0, 3)
    assert torch.equal(shift.running_mean, torch.zeros(3))


def test_shape_errors():
    with pytest.raises(ValueError, match=r"must be \(batch, 3\) or .*got \(2, 4\)"):
        MeanShift(3)(torch.zeros(2, 4))
    assert "3, momentum=0.1" in repr(MeanShift(3))


def small_net() -> nn.Module:
    config = NetConfig(kind="net", hidden=(6, 6))
    return build_net(config, input_shape=(1, 3, 3), num_classes=3, mean=(0.5,), std=0.5)


def test_reestimation_is_the_weighted_average_of_the_batch_means():
    net = small_net().eval()
    shifts = [module for module in net.modules() if isinstance(module, MeanShift)]
    shifts[0].running_mean.fill_(100)  # to be forgotten
    images = torch.rand(10, 1, 3, 3)
    reestimate_mean_shift(net, [images[:4], images[4:8], images[8:]], p=3.0)
    first = net.features.layers[1](net.features.normalize(images).flatten(1), 3.0)
    torch.testing.assert_close(shifts[0].running_mean, first.mean(0))
    assert shifts[1].running_mean.abs().sum() > 0


def test_reestimation_restores_modes_and_momenta():
    net = small_net().eval()
    net.last.train()
    reestimate_mean_shift(net, [torch.rand(4, 1, 3, 3)])
    assert not net.training and net.last.training
    shifts = [module for module in net.modules() if isinstance(module, MeanShift)]
    assert [shift.momentum for shift in shifts] == [0.1, 0.1]


def test_reestimation_centres_the_features_of_another_p():
    net = small_net()
    images = torch.rand(256, 1, 3, 3)
    reestimate_mean_shift(net, [images], p=2.0)
    net.eval()
    off = net.features(images).mean(0).abs().max()
    reestimate_mean_shift(net, [images], p=math.inf)
    assert net.features(images).mean(0).abs().max() < 1e-5 < 0.1 < off


def test_reestimation_refuses_no_images():
    net = small_net().train()
    before = [module.running_mean.clone() for module in net.modules() if type(module) is MeanShift]
    used = iter([])
    with pytest.raises(ValueError, match="at least one image; got none"):
        reestimate_mean_shift(net, used)
    after = [module.running_mean for module in net.modules() if type(module) is MeanShift]
    assert all(torch.equal(a, b) for a, b in zip(after, before, strict=True)) and net.training


def test_synchronized_is_left_as_it_was_found():
    net = small_net()
    shifts = [module for module in net.modules() if isinstance(module, MeanShift)]
    shifts[0].sync = True
    with pytest.raises(EOFError), synchronized(net):
        assert all(shift.sync for shift in shifts)
        with synchronized(net, False):
            assert not any(shift.sync for shift in shifts)
        raise EOFError
    assert [shift.sync for shift in shifts] == [True, False]


def test_one_process_has_nothing_to_synchronize():
    x = torch.randn(5, 3)
    alone, together = MeanShift(3), MeanShift(3, sync=True)
    assert torch.equal(alone(x), together(x))
    assert torch.equal(alone.running_mean, together.running_mean)


@pytest.mark.parametrize("shape", [(1, 3), (1, 3, 1, 1)])
def test_training_refuses_one_value_a_feature_as_batch_normalisation_does(shape):
    shift, x = MeanShift(3), torch.randn(shape)
    for norm in (nn.BatchNorm1d(3), nn.BatchNorm2d(3)):
        if x.ndim == (2 if isinstance(norm, nn.BatchNorm1d) else 4):
            with pytest.raises(ValueError, match="more than 1 value per channel"):
                norm(x)
    with pytest.raises(ValueError, match=r"MeanShift: in training mode x must hold more than one"):
        shift(x)
    assert torch.equal(shift.running_mean, torch.zeros(3))
    assert torch.equal(shift.eval()(x), x)


def test_one_image_of_several_pixels_can_be_shifted():
    x = torch.randn(1, 3, 2, 1)
    torch.testing.assert_close(MeanShift(3)(x).mean((0, 2, 3)), torch.zeros(3))


def test_running_means_serve_a_single_image_and_are_left_as_they_were():
    net = small_net().train()
    reestimate_mean_shift(net, [torch.rand(8, 1, 3, 3)])
    shifts = [module for module in net.modules() if isinstance(module, MeanShift)]
    before = [shift.running_mean.clone() for shift in shifts]
    images = torch.rand(2, 1, 3, 3)
    with by_running_means(net):
        assert net.training and not any(shift.training for shift in shifts)
        first, second = (net(image[None]) for image in images)
        together = net(images)
    assert all(shift.training for shift in shifts)
    assert torch.equal(torch.cat((first, second)), together) and not torch.equal(first, second)
    for shift, mean in zip(shifts, before, strict=True):
        assert torch.equal(shift.running_mean, mean)
    with pytest.raises(EOFError), by_running_means(net):
        raise EOFError
    assert all(shift.training for shift in shifts)


@pytest.mark.parametrize(
    ("batches", "error", "message"),
    [
        ([torch.rand(4, 1, 3, 3), torch.rand(1, 1, 3, 3)], ValueError, "more than one value"),
        (
            [torch.rand(4, 1, 3, 3), (torch.rand(4, 1, 3, 3), 1)],
            TypeError,
            "got a tuple. Pass only",
        ),
    ],
)
def test_reestimation_refuses_what_it_cannot_take_and_puts_the_means_back(batches, error, message):
    net = small_net().eval()
    shifts = [module for module in net.modules() if isinstance(module, MeanShift)]
    shifts[0].running_mean.fill_(100)
    with pytest.raises(error, match=message):
        reestimate_mean_shift(net, batches)
    assert [float(shift.running_mean.sum()) for shift in shifts] == [600, 0]
    assert not net.training and [shift.momentum for shift in shifts] == [0.1, 0.1]
