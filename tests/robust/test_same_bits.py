"""At p = ∞ the output of a net of distances is the same to the last bit wherever it is computed."""

import pytest
import torch
from helpers.sound_cases import random_images
from helpers.threads import one_thread
from torch import Tensor

from linfdist.data import to_pixels
from linfdist.nn import NetConfig, build_net


@pytest.fixture
def wide():
    """A net that threads, tiles and odd sizes matter to, its images, and its output on them."""
    torch.manual_seed(0)
    config = NetConfig(kind="net", hidden=(131, 257))
    net = build_net(config, input_shape=(3, 9, 9), num_classes=10, mean=(0.4, 0.5, 0.6), std=0.2009)
    net.eval().requires_grad_(False)
    pixels = to_pixels(random_images(net, 77, 0))
    with one_thread():
        return net, pixels, net(pixels)


def same_bits(one: Tensor, other: Tensor) -> bool:
    return torch.equal(one.view(torch.int32), other.cpu().view(torch.int32))


@pytest.mark.parametrize("threads", [1, 2, 3, 8])
def test_the_same_bits_with_any_number_of_threads(wide, threads):
    net, pixels, expected = wide
    with one_thread():
        torch.set_num_threads(threads)
        assert same_bits(expected, net(pixels))


@pytest.mark.parametrize("size", [1, 2, 13, 64])
def test_the_same_bits_in_batches_of_any_size(wide, size):
    net, pixels, expected = wide
    assert same_bits(expected, torch.cat([net(part) for part in pixels.split(size)]))


def test_the_same_bits_of_the_reference(wide, monkeypatch):
    net, pixels, expected = wide
    used = []
    monkeypatch.setattr("linfdist.ops.lp_distance.uses_native", lambda *_: used.append(1))
    assert same_bits(expected, net(pixels)) and len(used) == 3


def test_the_same_bits_of_inputs_that_are_not_contiguous(wide):
    net, pixels, expected = wide
    for apart in (
        pixels.permute(3, 2, 1, 0).contiguous().permute(3, 2, 1, 0),
        torch.stack((pixels, pixels), -1)[..., 0],
        pixels.to(memory_format=torch.channels_last),
    ):
        assert not apart.is_contiguous() and same_bits(expected, net(apart))


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_the_same_bits_on_a_gpu(wide):
    net, pixels, expected = wide
    assert same_bits(expected, net.cuda()(pixels.cuda()))


def test_a_divisor_that_is_a_tensor_changes_no_bit():
    """On a CPU; on a GPU a number is inverted first, and rounds another way."""
    x = torch.rand(100_003)
    for std in (0.3081, 0.2009, 0.3520, 0.2276, 0.3758):
        assert same_bits(x / std, x / torch.tensor(std))
