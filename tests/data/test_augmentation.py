"""Images in memory: sets, pixels, crops, and augmentation against a loop."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from linfdist import data
from linfdist.data import Augmentation, ImageSet, augment


def test_image_sets_are_checked():
    info = data.DATASETS["digits"]
    images = torch.zeros(3, 1, 8, 8, dtype=torch.uint8)
    with pytest.raises(ValueError, match=r"images must be uint8 of shape \[N, C, H, W\]; got"):
        ImageSet(images.float(), torch.zeros(3, dtype=torch.int64), info)
    with pytest.raises(ValueError, match=r"labels must be int64 of shape \(3,\).*shape \(2,\)"):
        ImageSet(images, torch.zeros(2, dtype=torch.int64), info)
    with pytest.raises(ValueError, match=r"image 1 has label -1\. Labels must start at 0"):
        ImageSet(images, torch.tensor([0, -1, 2]), info)


def test_take():
    images = torch.zeros(3, 1, 8, 8, dtype=torch.uint8)
    whole = ImageSet(images, torch.tensor([0, 1, 2]), data.DATASETS["digits"])
    assert whole.take(None) is whole
    assert whole.take(2).labels.tolist() == [0, 1]
    assert len(whole.to("cpu").take(3)) == 3
    for n in (0, 4):
        with pytest.raises(ValueError, match=rf"n must be in 1\.\.3.*; got {n}"):
            whole.take(n)


def test_to_pixels():
    images = torch.arange(256, dtype=torch.uint8).reshape(1, 1, 16, 16)
    pixels = data.to_pixels(images)
    assert pixels.dtype == torch.float32
    assert torch.equal(pixels.flatten(), torch.arange(256) / 255)
    with pytest.raises(ValueError, match=r"images must be uint8 \(0\.\.255\); got torch\.float32"):
        data.to_pixels(pixels)


def test_center_crop():
    images = torch.arange(64, dtype=torch.uint8).reshape(1, 1, 8, 8)
    assert torch.equal(data.center_crop(images, 4), images[:, :, 2:6, 2:6])
    assert torch.equal(data.center_crop(images, 5), images[:, :, 1:6, 1:6])
    # Of an odd rest the larger part is cut off below and on the right.
    with pytest.raises(ValueError, match=r"at most the image's sides \(8, 8\); got 9"):
        data.center_crop(images, 9)


def windows(image: torch.Tensor, augmentation: Augmentation) -> set[bytes]:
    """Every result that the augmentation may give for one image, by a loop."""
    padding, (height, width) = augmentation.padding, image.shape[-2:]
    mode = {"zeros": "constant", "edge": "edge"}[augmentation.pad_with]
    padded = np.pad(image.numpy(), ((0, 0), (padding, padding), (padding, padding)), mode=mode)
    out_height = augmentation.crop or height
    out_width = augmentation.crop or width
    results = set()
    for top in range(padded.shape[1] - out_height + 1):
        for left in range(padded.shape[2] - out_width + 1):
            window = padded[:, top : top + out_height, left : left + out_width]
            results.add(window.tobytes())
            if augmentation.flip:
                results.add(window[:, :, ::-1].tobytes())
    return results


@settings(deadline=None, max_examples=25)
@given(
    padding=st.integers(0, 2),
    flip=st.booleans(),
    crop=st.one_of(st.none(), st.integers(1, 3)),
    pad_with=st.sampled_from(["zeros", "edge"]),
    channels=st.integers(1, 3),
    seed=st.integers(0, 1000),
)
def test_augment_gives_every_window_and_no_other(padding, flip, crop, pad_with, channels, seed):
    augmentation = Augmentation(padding, flip, crop, pad_with)
    generator = torch.Generator().manual_seed(seed)
    image = torch.randint(1, 256, (channels, 3, 4), generator=generator, dtype=torch.uint8)
    batch = augment(image.expand(2000, -1, -1, -1), augmentation, generator)
    assert batch.shape == (2000, channels, crop or 3, crop or 4)
    assert {result.numpy().tobytes() for result in batch} == windows(image, augmentation)


def test_augment_is_a_function_of_the_generator():
    images = torch.randint(256, (64, 3, 8, 8), dtype=torch.uint8)
    augmentation = Augmentation(padding=4, flip=True)
    first = augment(images, augmentation, torch.Generator().manual_seed(1))
    again = augment(images, augmentation, torch.Generator().manual_seed(1))
    other = augment(images, augmentation, torch.Generator().manual_seed(2))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_augment_is_the_same_on_the_gpu():
    images = torch.randint(256, (64, 3, 8, 8), dtype=torch.uint8)
    augmentation = Augmentation(padding=4, flip=True)
    here = augment(images, augmentation, torch.Generator().manual_seed(1))
    there = augment(images.cuda(), augmentation, torch.Generator().manual_seed(1))
    assert torch.equal(here, there.cpu())


def test_augment_without_anything_to_do_keeps_the_images():
    images = torch.randint(256, (5, 3, 8, 8), dtype=torch.uint8)
    assert torch.equal(augment(images, Augmentation(), torch.Generator()), images)
    assert augment(images[:0], Augmentation(1, True), torch.Generator()).shape == (0, 3, 8, 8)


def test_augment_refuses_bad_input():
    images = torch.zeros(2, 3, 8, 8, dtype=torch.uint8)
    with pytest.raises(ValueError, match=r"images must be uint8 of shape \[B, C, H, W\]; got"):
        augment(images.float(), Augmentation(), torch.Generator())
    with pytest.raises(ValueError, match=r"padded image's sides \(10, 10\); got 11"):
        augment(images, Augmentation(padding=1, crop=11), torch.Generator())
    with pytest.raises(ValueError, match="padding must be at least 0; got -1"):
        Augmentation(padding=-1)
    with pytest.raises(ValueError, match="crop must be at least 1 or None; got 0"):
        Augmentation(crop=0)
    with pytest.raises(ValueError, match="pad_with must be one of zeros, edge; got 'reflect'"):
        Augmentation(padding=1, pad_with="reflect")


def test_half_of_the_images_are_flipped_and_every_offset_is_as_likely():
    """Binomial and multinomial counts of 40,000 draws, within five standard deviations."""
    number, padding = 40_000, 2
    augmentation = Augmentation(padding=padding, flip=True)
    generator = torch.Generator().manual_seed(0)
    windows = data.draw_windows(number, (1, 6, 8), augmentation, generator)
    top, left, flipped = windows.T
    assert set(flipped.tolist()) == {0, 1}
    assert abs(flipped.double().mean() - 1 / 2) < 5 * (1 / 4 / number) ** 0.5
    places = (2 * padding + 1) ** 2
    for count, cells in (
        (torch.bincount(top, minlength=5), 5),
        (torch.bincount(left, minlength=5), 5),
        (torch.bincount(5 * top + left, minlength=places), places),
        (torch.bincount(2 * left + flipped, minlength=10), 10),
    ):
        assert len(count) == cells
        share = 1 / cells
        assert (count / number - share).abs().max() < 5 * (share * (1 - share) / number) ** 0.5
    crop = data.draw_windows(number, (3, 64, 60), Augmentation(crop=56), generator)
    for offset, most in ((crop[:, 0], 8), (crop[:, 1], 4)):
        count, share = torch.bincount(offset), 1 / (most + 1)
        assert len(count) == most + 1
        assert (count / number - share).abs().max() < 5 * (share * (1 - share) / number) ** 0.5
    assert not crop[:, 2].any()


def test_training_flips_half_of_its_images():
    """Through ``augment``: an image that is bright on one side comes with that side on either."""
    images = torch.zeros(10_000, 1, 2, 4, dtype=torch.uint8)
    images[..., :2] = 255
    found = augment(images, Augmentation(flip=True), torch.Generator().manual_seed(1))
    assert abs(found[:, 0, 0, 3].double().mean() / 255 - 1 / 2) < 5 * (1 / 4 / 10_000) ** 0.5


def test_padding_by_the_edge_may_be_wider_than_the_image():
    image = torch.arange(6, dtype=torch.uint8).reshape(1, 1, 2, 3)
    augmentation = Augmentation(padding=7, pad_with="edge")
    found = augment(image.expand(4000, -1, -1, -1), augmentation, torch.Generator().manual_seed(0))
    expected = windows(image[0], augmentation)
    assert {result.numpy().tobytes() for result in found} == expected


def dataset(n, size=8):
    """Images that are all different, of classes that come one after the other."""
    images = torch.arange(n)[:, None, None, None].expand(n, 1, size, size) % 251
    info = data.DATASETS["digits"]
    return ImageSet(images.to(torch.uint8), torch.arange(n) % 10, info)


@pytest.mark.parametrize(("n", "kept"), [(10, 1), (99, 9), (49_999, 4_999), (60_000, 5_000)])
def test_the_last_images_are_kept_to_choose_settings_by(n, kept):
    train = dataset(n)
    rest, validation = data.split_validation(train)
    assert (len(rest), len(validation)) == (n - kept, kept)
    assert torch.equal(torch.cat([rest.images, validation.images]), train.images)
    assert torch.equal(torch.cat([rest.labels, validation.labels]), train.labels)
    assert (train.validation, rest.validation, validation.validation) == (False, False, True)
    assert validation.take(1).validation and validation.to("cpu").validation


def test_images_to_choose_by_are_cut_as_test_images_are():
    rest, validation = data.split_validation(dataset(40, size=12))
    assert rest.images.shape == (36, 1, 12, 12) and validation.images.shape == (4, 1, 8, 8)


def test_images_are_split_once():
    _, validation = data.split_validation(dataset(200))
    with pytest.raises(ValueError, match="not be split already; got 20 validation images"):
        data.split_validation(validation)
    with pytest.raises(ValueError, match=r"at least ten training images.*got 9 training images"):
        data.split_validation(dataset(9))
