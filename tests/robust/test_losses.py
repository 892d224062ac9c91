"""The losses against their formulas, written out."""

import math
from fractions import Fraction

import pytest
import torch

from linfdist.robust import (
    GatedLoss,
    HingeLoss,
    IBPLoss,
    MixtureLoss,
    clipped_hinge_loss,
    gated_loss,
    hinge_loss,
    ibp_loss,
    mixture_loss,
)

pytestmark = pytest.mark.quick

LOGITS = torch.tensor([[1.0, 0.5, -1.0], [0.0, 0.25, 2.0]], dtype=torch.float64)
LABELS = torch.tensor([0, 1])
# With threshold 1: image 0 has margins 0, 0.5, -1; image 1 has 0.75, 0, 2.75.


def test_hinge_is_the_mean_of_the_largest_margins():
    assert hinge_loss(LOGITS, LABELS, 1.0).item() == (0.5 + 2.75) / 2


def test_hinge_mixes_in_the_mean_over_all_classes():
    mean = (0.5 + 0.75 + 2.75) / 6
    assert hinge_loss(LOGITS, LABELS, 1.0, mix=0).item() == pytest.approx(mean)
    mixed = 0.75 * (0.5 + 2.75) / 2 + 0.25 * mean
    assert hinge_loss(LOGITS, LABELS, 1.0, mix=0.75).item() == pytest.approx(mixed)


def test_hinge_is_zero_where_all_margins_reach_the_threshold():
    logits = torch.tensor([[3.0, 2.0, 1.5]])
    for mix in (0.0, 0.5, 1.0):
        assert hinge_loss(logits, torch.tensor([0]), 1.0, mix=mix).item() == 0


def test_hinge_gradient_reaches_the_label_and_its_strongest_rival():
    logits = LOGITS[1:].clone().requires_grad_(True)
    hinge_loss(logits, LABELS[1:], 1.0).backward()
    assert logits.grad.tolist() == [[0, -1, 1]]


def test_ibp_weighs_the_clean_loss_with_kappa():
    margins = torch.tensor([[0.0, 0.5, 1.0], [-1.0, 0.0, 2.0]], dtype=torch.float64)

    def cross_entropy(scores):
        rows = scores.exp() / scores.exp().sum(1, keepdim=True)
        return -(rows[0, 0].log() + rows[1, 1].log()) / 2

    clean, worst = cross_entropy(LOGITS), cross_entropy(margins)
    for kappa in (0.0, 0.25, 1.0):
        expected = kappa * clean + (1 - kappa) * worst
        torch.testing.assert_close(ibp_loss(LOGITS, margins, LABELS, kappa), expected)
    assert clean != worst


@pytest.mark.parametrize("value", [-0.5, 1.7, math.nan])
def test_weights_outside_0_to_1_are_refused(value):
    with pytest.raises(ValueError, match=rf"kappa must be in \[0, 1\]; got {value}.*clean loss"):
        IBPLoss(eps_train=Fraction(1, 10), kappa=value)
    with pytest.raises(ValueError, match=rf"mix must be in \[0, 1\]; got {value}.*largest viola"):
        HingeLoss(threshold=Fraction(1, 10), mix=value)


def test_radii_that_are_none_are_refused():
    with pytest.raises(ValueError, match=r"eps_train must be at least 0; got -1.*a radius"):
        IBPLoss(eps_train=Fraction(-1), kappa=0.5)
    for value in (Fraction(-1), Fraction(0)):
        with pytest.raises(ValueError, match=f"threshold must be above 0; got {value}.*in pixels"):
            HingeLoss(threshold=value)


def test_the_ends_of_the_ranges_are_allowed():
    for weight in (0.0, 1.0):
        assert IBPLoss(eps_train=Fraction(0), kappa=weight).kappa == weight
        assert HingeLoss(threshold=Fraction(1, 255), mix=weight).mix == weight


def random_batch(seed, images=24, classes=5):
    """Logits of which some are right by more and some by less than a threshold of 1, some wrong."""
    generator = torch.Generator().manual_seed(seed)
    logits = torch.randn(images, classes, dtype=torch.float64, generator=generator)
    labels = torch.randint(classes, (images,), generator=generator)
    logits[torch.arange(images // 2), labels[: images // 2]] += 2.5
    return logits, labels


def cross_entropy_by_hand(scores, label):
    return math.log(sum(math.exp(score) for score in scores)) - scores[label]


def mixture_by_hand(logits, labels, threshold, weight, scale):
    """The formula in Python's own numbers."""
    total = 0.0
    for row, label in zip(logits.tolist(), labels.tolist(), strict=True):
        largest = max(z for k, z in enumerate(row) if k != label) - row[label]
        total += min(max(largest / threshold + 1, 0.0), 1.0)
        total += weight * cross_entropy_by_hand([scale * z for z in row], label)
    return total / len(labels)


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("weight", [0.0, 0.1, 1.0])
def test_mixture_is_a_plain_loop(seed, weight):
    logits, labels = random_batch(seed)
    for threshold, scale in ((1.0, 1.0), (0.3, 4.0), (5.0, 0.5)):
        found = mixture_loss(logits, labels, threshold, weight, torch.tensor(scale).double())
        expected = mixture_by_hand(logits, labels, threshold, weight, scale)
        assert found.item() == pytest.approx(expected, rel=1e-12)
    right = (random_batch(seed)[0].max(1).indices == labels).sum()
    assert 0 < right < len(labels)


def test_the_clipped_hinge_has_no_gradient_where_the_image_is_classified_wrong():
    """Nor on the border of its class, nor where it is certified: only in between."""
    logits = torch.tensor(
        [[0.0, 0.5, -1.0], [1.0, 1.0, 0.0], [1.0, 0.25, -1.0], [9.0, 0.0, 0.0]],
        dtype=torch.float64,
        requires_grad=True,
    )
    labels = torch.zeros(4, dtype=torch.int64)
    loss = clipped_hinge_loss(logits, labels, 1.0)
    loss.backward()
    assert loss.item() == (1 + 1 + 0.25 + 0) / 4
    assert logits.grad[[0, 1, 3]].abs().sum() == 0
    assert logits.grad[2].tolist() == [-0.25, 0.25, 0]


def test_the_threshold_is_a_finite_number_or_a_tensor_without_axes():
    logits, labels = torch.randn(5, 4), torch.arange(5) % 4
    assert torch.equal(
        hinge_loss(logits, labels, torch.tensor(2.0)), hinge_loss(logits, labels, 2.0)
    )
    with pytest.raises(ValueError, match="threshold must be finite; got inf"):
        hinge_loss(logits, labels, math.inf)
    with pytest.raises(TypeError, match="threshold must be a number"):
        hinge_loss(logits, labels, torch.tensor([2.0]))


def test_the_clipped_hinge_is_the_hinge_over_the_threshold_where_images_are_right():
    logits, labels = random_batch(5)
    right = logits.argmax(1) == labels
    hinge = hinge_loss(logits[right], labels[right], 0.8).item()
    clipped = clipped_hinge_loss(logits[right], labels[right], 0.8).item()
    assert clipped == pytest.approx(hinge / 0.8) and 0 < clipped < 1
    assert clipped_hinge_loss(logits[~right], labels[~right], 0.8).item() == 1


@pytest.mark.parametrize("loss", [mixture_loss, gated_loss])
def test_a_wrong_image_has_the_gradient_of_the_cross_entropy_alone(loss):
    logits, labels = random_batch(1)
    wrong = logits.argmax(1) != labels
    logits.requires_grad_(True)
    if loss is mixture_loss:
        mixture_loss(logits, labels, 1.0, 0.3, 2.0).backward()
        scaled = 2.0
    else:
        gated_loss(logits, logits * 3, labels, 0.3).backward()
        scaled = 1.0
    alone = logits.detach().clone().requires_grad_(True)
    (0.3 * torch.nn.functional.cross_entropy(scaled * alone, labels)).backward()
    torch.testing.assert_close(logits.grad[wrong], alone.grad[wrong])
    assert not torch.allclose(logits.grad[~wrong], alone.grad[~wrong])


def test_only_the_cross_entropy_sees_the_scale():
    logits, labels = random_batch(2)
    gradients = {}
    for weight in (0.0, 0.5, 1.0):
        scale = torch.tensor(1.5, dtype=torch.float64, requires_grad=True)
        mixture_loss(logits, labels, 1.0, weight, scale).backward()
        gradients[weight] = scale.grad.item()
    scale = torch.tensor(1.5, dtype=torch.float64, requires_grad=True)
    torch.nn.functional.cross_entropy(scale * logits, labels).backward()
    expected = {weight: weight * scale.grad.item() for weight in gradients}
    assert gradients == pytest.approx(expected) and gradients[0.0] == 0 != gradients[1.0]
    unseen = mixture_loss(logits, labels, 1.0, 0.0, scale)
    assert unseen.item() == clipped_hinge_loss(logits, labels, 1.0).item()


def test_the_gradients_of_the_mixtures_are_those_of_differences():
    logits, labels = random_batch(3, images=8)
    logits.requires_grad_(True)
    scale = torch.tensor(1.5, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(
        lambda z, s: mixture_loss(z, labels, 1.0, 0.4, s), (logits, scale)
    )
    margins = (3 * logits.detach()).requires_grad_(True)
    assert torch.autograd.gradcheck(lambda z, m: gated_loss(z, m, labels, 0.4), (logits, margins))


@pytest.mark.parametrize("weight", [0.0, 0.25])
def test_gated_is_a_plain_loop(weight):
    logits, labels = random_batch(4)
    margins = 2 * logits - 2 * logits.gather(1, labels.unsqueeze(1)) + 0.5
    total = 0.0
    for row, worst, label in zip(logits.tolist(), margins.tolist(), labels.tolist(), strict=True):
        if max(range(len(row)), key=row.__getitem__) == label:
            total += cross_entropy_by_hand(worst, label)
        total += weight * cross_entropy_by_hand(row, label)
    found = gated_loss(logits, margins, labels, weight).item()
    assert found == pytest.approx(total / len(labels), rel=1e-12)


def test_a_nan_of_the_network_is_not_hidden():
    logits = torch.tensor([[math.nan, 1.0, 0.0]])
    assert mixture_loss(logits, torch.tensor([1]), 1.0, 0.0, 1.0).isnan()
    assert gated_loss(logits, logits, torch.tensor([1]), 0.0).isnan()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"threshold": Fraction(0)}, "MixtureLoss: threshold must be above 0; got 0.*in pixels"),
        ({"weights": (1.0, 0.1)}, r"three numbers; got \(1.0, 0.1\)"),
        ({"weights": (1.0, -0.1, 0.1)}, "MixtureLoss: weights must be three finite numbers"),
        ({"weights": (math.nan, 0.1, 0.1)}, "weights must be a finite number; got nan"),
        ({"weights": (1.0, 0.1, 0.0)}, "must end above 0 if e2 starts above 0.*exponential"),
        ({"weights": (1.0, 0.0, 0.1)}, "and at 0 if e2 starts at 0"),
        ({"scale": 0.0}, "scale must be above 0 and finite; got 0.0"),
        ({"scale": math.nan}, "scale must be a finite number; got nan"),
        ({"scale_rate": -1.0}, "scale_rate must be at least 0 and finite; got -1.0"),
    ],
)
def test_mixtures_that_cannot_be_are_refused(change, message):
    with pytest.raises(ValueError, match=message):
        MixtureLoss(**{"threshold": Fraction(1, 5), "weights": (1.0, 0.1, 0.01)} | change)
    if "weights" in change:
        with pytest.raises(ValueError, match="GatedLoss: weights must"):
            GatedLoss(eps_train=Fraction(1, 10), **change)


def test_a_gated_radius_below_0_is_refused():
    with pytest.raises(ValueError, match=r"GatedLoss: eps_train must be at least 0; got -1"):
        GatedLoss(eps_train=Fraction(-1), weights=(1.0, 0.1, 0.01))
    assert GatedLoss(eps_train=Fraction(0), weights=(0.0, 0.0, 0.0)).weights[0] == 0
