"""Configurations to JSON and back."""

import json
import math
from dataclasses import dataclass, replace
from fractions import Fraction

import pytest

from linfdist.config import from_dict, to_dict
from linfdist.data import Augmentation
from linfdist.nn import NetConfig
from linfdist.training import GatedLoss, HingeLoss, IBPLoss, MixtureLoss, TrainConfig

HINGE = TrainConfig(
    epochs=(1, 2, 3),
    loss=HingeLoss(threshold=Fraction(80, 255), mix=0.75),
    augmentation=Augmentation(padding=4, flip=True),
    train_images=100,
)
IBP = replace(HINGE, loss=IBPLoss(eps_train=Fraction("8.8") / 255, kappa=0.0), p_start=math.inf)
MIXTURE = replace(
    HINGE,
    loss=MixtureLoss(threshold=Fraction(48, 255), weights=(1.0, 0.1, 0.0005), scale=4.0),
    augmentation=Augmentation(padding=3, flip=True, pad_with="edge"),
    lr_schedule="cosine",
)
GATED = replace(HINGE, loss=GatedLoss(eps_train=Fraction("8.8") / 255, weights=(1.0, 0.5, 0.02)))
CONV = NetConfig(kind="conv_net_mlp", hidden=(8,), mlp_hidden=4, channels=((3, 1), (5, 2)))
GAUSSIAN = NetConfig(kind="net", hidden=(8, 9), identity_value=None)


@pytest.mark.parametrize("config", [HINGE, IBP, MIXTURE, GATED, CONV, GAUSSIAN])
def test_there_and_back_through_text(config):
    text = json.dumps(to_dict(config), allow_nan=False)
    assert from_dict(type(config), json.loads(text)) == config


def test_fractions_stay_exact_and_dataclasses_are_named():
    data = to_dict(HINGE)
    assert data["type"] == "TrainConfig" and data["epochs"] == [1, 2, 3]
    assert data["loss"] == {"type": "HingeLoss", "threshold": "16/51", "mix": 0.75}
    assert to_dict(IBP)["p_start"] == "inf" and to_dict(-math.inf) == "-inf"
    assert to_dict({"a": (Fraction(1, 3), None, True)}) == {"a": ["1/3", None, True]}


def test_a_field_that_came_later_is_left_out_at_its_default():
    assert not {"smoothing", "lr_schedule"} & {*to_dict(HINGE)}
    assert "pad_with" not in to_dict(HINGE)["augmentation"]
    smoothed = replace(HINGE, smoothing="matched_lse")
    assert to_dict(smoothed) == {**to_dict(HINGE), "smoothing": "matched_lse"}
    assert from_dict(TrainConfig, to_dict(smoothed)) == smoothed


def test_what_is_no_configuration_is_refused():
    with pytest.raises(TypeError, match=r"got set \{1\}"):
        to_dict({1})
    with pytest.raises(
        ValueError,
        match=r"HingeLoss, IBPLoss, MixtureLoss, GatedLoss; got \{'type': 'CrossEntropy'\}",
    ):
        from_dict(TrainConfig, {**to_dict(HINGE), "loss": {"type": "CrossEntropy"}})
    with pytest.raises(ValueError, match=r"unknown fields \['momentum'\]"):
        from_dict(TrainConfig, {**to_dict(HINGE), "momentum": 1})
    with pytest.raises(ValueError, match="NetConfig must have that type"):
        from_dict(NetConfig, to_dict(HINGE))


def test_a_type_without_a_rule_is_named():
    @dataclass(frozen=True)
    class Odd:
        values: set

    with pytest.raises(TypeError, match="no rule for the type <class 'set'>"):
        from_dict(Odd, {"type": "Odd", "values": [1]})
