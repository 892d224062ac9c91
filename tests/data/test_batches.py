"""Batches: functions of seed, epoch and index, whoever asks for them and in whatever order."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from helpers.dots import CONFIG, TRAIN, dots

from linfdist import data
from linfdist.data import Augmentation
from linfdist.data.batches import Batches
from linfdist.system import distributed

pytestmark = pytest.mark.quick

PLAIN = Augmentation()
SHIFTED = CONFIG.augmentation


def batches(augmentation=SHIFTED, seed=0, images=TRAIN):
    return Batches(images, augmentation, 16, seed)


def epoch_of(found, epoch):
    return [found.get(epoch, index) for index in range(len(found))]


def test_every_image_is_seen_once_an_epoch_the_incomplete_batch_too():
    found = batches(PLAIN)
    orders = []
    for epoch in range(2):
        parts = epoch_of(found, epoch)
        assert [len(labels) for _, labels in parts] == [16, 16, 16, 8]
        assert [found.size(index) for index in range(4)] == [16, 16, 16, 8]
        orders.append(torch.cat([pixels for pixels, _ in parts]))
    assert not torch.equal(*orders)
    whole = sorted(image.sum().item() for image in TRAIN.images.double() / 255)
    for order in orders:
        assert sorted(image.double().sum().item() for image in order) == pytest.approx(whole)


def test_batches_depend_on_seed_epoch_and_index_alone():
    first, second = batches(), batches()
    expected = [first.get(epoch, index)[0] for epoch in range(2) for index in range(4)]
    for epoch, index in [(1, 2), (0, 3), (1, 0), (0, 0)]:  # any order
        torch.rand(3)  # and whatever the global generator does
        assert torch.equal(second.get(epoch, index)[0], expected[4 * epoch + index])
    assert not torch.equal(batches(seed=1).get(0, 0)[0], expected[0])


def derived(*keys):
    """A generator in the state that recorded runs drew from."""
    seed = int(np.random.SeedSequence(keys).generate_state(1, np.uint64)[0] >> 1)
    return torch.Generator().manual_seed(seed)


@pytest.mark.parametrize(
    "augmentation",
    [PLAIN, SHIFTED, Augmentation(padding=2), Augmentation(flip=True), Augmentation(crop=5)],
)
def test_an_epoch_drawn_at_once_is_each_batch_drawn_by_itself(augmentation):
    found = batches(augmentation, seed=3)
    for epoch in (0, 7):
        order = torch.randperm(len(TRAIN), generator=derived(3, epoch))
        for index, (pixels, labels) in enumerate(epoch_of(found, epoch)):
            chosen = order[16 * index : 16 * index + 16]
            generator = derived(3, epoch, index)
            images = data.augment(TRAIN.images[chosen], augmentation, generator)
            assert torch.equal(pixels, data.to_pixels(images))
            assert torch.equal(labels, TRAIN.labels[chosen])


@pytest.mark.parametrize("processes", [2, 3, 16])
def test_the_shares_of_all_processes_are_the_batch(processes, monkeypatch):
    few = dots(24)  # the last batch has 8 images: 16 processes do not all get one
    whole = epoch_of(batches(images=few), 1)
    monkeypatch.setattr(distributed, "size", lambda: processes)
    parts = []
    for rank in range(processes):
        monkeypatch.setattr(distributed, "rank", lambda rank=rank: rank)
        parts.append(epoch_of(batches(images=few), 1))
    for index, (pixels, labels) in enumerate(whole):
        shares = [part[index] for part in parts]
        assert torch.equal(torch.cat([share[0] for share in shares]), pixels)
        assert torch.equal(torch.cat([share[1] for share in shares]), labels)
        sizes = [len(share[1]) for share in shares]
        assert max(sizes) - min(sizes) <= 1


def test_a_crop_that_does_not_fit_is_refused_when_an_epoch_is_drawn():
    with pytest.raises(ValueError, match=r"padded image's sides \(6, 6\); got 7"):
        batches(replace(PLAIN, crop=7)).get(0, 0)
