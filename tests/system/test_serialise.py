"""Configurations to JSON and back."""

import json
import math
from dataclasses import dataclass, fields, replace
from decimal import Decimal
from fractions import Fraction

import numpy as np
import pytest
import torch

from linfdist.baselines import BaselineConfig
from linfdist.data import Augmentation, DatasetInfo
from linfdist.experiments import Setting
from linfdist.nn import NetConfig
from linfdist.robust.losses import GatedLoss, HingeLoss, IBPLoss, MixtureLoss
from linfdist.system.serialise import from_dict, to_dict
from linfdist.training import BoundTrainConfig, LayerwiseTrainConfig, TrainConfig

pytestmark = pytest.mark.quick

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
SETTING = Setting(dataset="digits", eps=Fraction(1, 10), net=GAUSSIAN, train=HINGE)


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
    with pytest.raises(ValueError, match="NetConfig must have the type"):
        from_dict(NetConfig, to_dict(HINGE))


@pytest.mark.parametrize(
    ("config", "change", "error", "message"),
    [
        (
            HINGE,
            {"lr": "fast"},
            ValueError,
            r"TrainConfig\.lr must be a number; got 'fast' \(str\)",
        ),
        (
            HINGE,
            {"lr": [0.1]},
            TypeError,
            r"TrainConfig\.lr must be a number or its text; got \[0\.1",
        ),
        (HINGE, {"lr": True}, TypeError, r"TrainConfig\.lr must be a number or its text; got True"),
        (HINGE, {"epochs": [1, 2]}, ValueError, r"TrainConfig\.epochs must be a list of 3 values"),
        (HINGE, {"loss": 7}, ValueError, r"TrainConfig\.loss must be one of HingeLoss, .*; got 7"),
        (HINGE, {"augmentation": "flip"}, TypeError, r"TrainConfig\.augmentation must be a dict"),
        (GAUSSIAN, {"hidden": 64}, TypeError, r"NetConfig\.hidden must be a list; got 64 \(int\)"),
        (SETTING, {"eps": "x"}, ValueError, r"Setting\.eps must be a number; got 'x' \(str\)"),
        (SETTING, {"eps": "1/0"}, ValueError, r"Setting\.eps must be a number; got '1/0'"),
        (SETTING, {"dataset": 7}, TypeError, r"Setting: dataset must be text; got 7 \(int\)"),
        (SETTING, {"test_images": "all"}, TypeError, "Setting: test_images must be a whole number"),
    ],
)
def test_reading_names_the_field_of_a_value_of_another_type(config, change, error, message):
    with pytest.raises(error, match=message):
        from_dict(type(config), {**to_dict(config), **change})


def test_a_type_without_a_rule_is_named():
    @dataclass(frozen=True)
    class Odd:
        values: set

    with pytest.raises(TypeError, match="no rule for the type <class 'set'>"):
        from_dict(Odd, {"type": "Odd", "values": [1]})


# --- values of another type ---------------------------------------------------------------------

BOUND = BoundTrainConfig(
    epochs=(1, 2, 1), bound="hinge", threshold=Fraction(1, 10), lr_drops=(2, 3), train_images=9
)
COLT = LayerwiseTrainConfig(epochs=(2, 1, 1), mix_epochs=1, eps_train=Fraction(1, 20))
INFO = DatasetInfo(
    name="a",
    title="A",
    input_shape=(3, 8, 8),
    num_classes=3,
    mean=(0.1, 0.2, 0.3),
    std=0.4,
    eps=Fraction(8, 255),
)
CONFIGS = (
    *(HINGE, IBP, HINGE.loss, IBP.loss, HINGE.augmentation, Augmentation(crop=5), CONV, GAUSSIAN),
    *(BOUND, COLT, BaselineConfig(kind="cap", width=0.5), INFO, SETTING),
)
NONSENSE = (
    *(
        None,
        True,
        "a",
        "0.1",
        b"1",
        "",
        2.5,
        -1,
        0,
        10**30,
        10**400,
        math.nan,
        math.inf,
        1j,
        Decimal("0.1"),
    ),
    *((), (1,), (1, 2), (1, 2, 3), (0.5, 0.5), ("a",), ("a", "b", "c"), [1, 2, 3], {}, {1}, object),
    *(np.int64(3), np.float32(0.5), np.float64(0.1), np.bool_(True), np.array([1, 2, 3]), np.nan),
    *((np.int64(1), np.int64(2), np.int64(3)), torch.tensor(0.5), torch.tensor([1, 2, 3])),
    *(Fraction(1, 3), HINGE, HINGE.loss, ((1, 2), (3,)), ((np.int64(3), 1), (5, 2)), [[3, 1]]),
)


@pytest.mark.parametrize("config", CONFIGS, ids=lambda config: type(config).__name__)
def test_every_field_takes_what_can_be_saved_and_read_or_names_it(config):
    """Whatever is given: the same after JSON, in Python's own types; or a named error."""
    kind, refused = type(config), 0
    for field in fields(config):
        for value in NONSENSE:
            try:
                made = replace(config, **{field.name: value})
            except (TypeError, ValueError) as error:
                assert str(error).startswith(f"{kind.__name__}: {field.name} must be ") or (
                    f"{kind.__name__}: " in str(error) or "HingeLoss: threshold" in str(error)
                ), (field.name, value, error)
                refused += 1
                continue
            data = to_dict(made)
            assert from_dict(kind, json.loads(json.dumps(data, allow_nan=False))) == made
            assert hash(made) == hash(made)
            assert plain(data), (field.name, data)
    assert refused > 8 * len(fields(config))


def plain(data):
    """Whether it is made of Python's own types alone, which a checkpoint can be read with."""
    if isinstance(data, dict):
        return all(type(key) is str and plain(value) for key, value in data.items())
    if isinstance(data, list):
        return all(map(plain, data))
    return type(data) in (str, int, float, bool, type(None))


@pytest.mark.parametrize(
    ("config", "change", "error", "message"),
    [
        (HINGE, {"lr": "0.1"}, TypeError, r"TrainConfig: lr must be a number; got '0\.1' \(str\)"),
        (HINGE, {"lr": True}, TypeError, r"TrainConfig: lr must be a number; got True \(bool\)"),
        (HINGE, {"lr": math.nan}, ValueError, "TrainConfig: lr must be a finite number; got nan"),
        (HINGE, {"lr": -0.1}, ValueError, r"TrainConfig: lr must be at least 0; got -0\.1"),
        (HINGE, {"betas": (0.9, 1.0)}, ValueError, r"TrainConfig: betas must be in \[0, 1\); got"),
        (HINGE, {"batch_size": 2.0}, TypeError, r"batch_size must be a whole number; got 2\.0"),
        (HINGE, {"epochs": 3}, TypeError, "epochs must be a tuple of three values; got 3"),
        (HINGE, {"epochs": (1, 2)}, ValueError, r"epochs must be three numbers; got \(1, 2\)"),
        (
            HINGE,
            {"loss": None},
            TypeError,
            "loss must be HingeLoss or IBPLoss or MixtureLoss or GatedLoss; got None",
        ),
        (IBP.loss, {"eps_train": "0.1"}, TypeError, r"IBPLoss: eps_train .*Write Fraction\(8, 255"),
        (IBP.loss, {"eps_train": Decimal("0.1")}, TypeError, "IBPLoss: eps_train must be a number"),
        (IBP.loss, {"eps_train": math.inf}, ValueError, "eps_train must be a finite number"),
        (BOUND, {"eps_train": None}, TypeError, "BoundTrainConfig: eps_train must be a number"),
        (BOUND, {"kappa": 1.0}, TypeError, "kappa must be a tuple of two values"),
        (BOUND, {"matmul_precision": "bf16"}, ValueError, "must be one of highest, high, medium"),
        (BOUND, {"lr": -1.0}, ValueError, "BoundTrainConfig: lr must be at least 0"),
        (COLT, {"momentum": -0.5}, ValueError, "LayerwiseTrainConfig: momentum must be at least 0"),
        (CONV, {"hidden": 64}, TypeError, r"NetConfig: hidden must be a tuple of some values"),
        (CONV, {"hidden": (64.0,)}, TypeError, "NetConfig: hidden must be a whole number; got 64"),
        (CONV, {"mlp_hidden": 0}, ValueError, "NetConfig: mlp_hidden must be at least 1; got 0"),
        (CONV, {"channels": ((3, 0),)}, ValueError, "channels must be pairs of a width and"),
        (HINGE.augmentation, {"flip": 1}, TypeError, "flip must be True or False; got 1"),
        (HINGE.augmentation, {"flip": "no"}, TypeError, "flip must be True or False; got 'no'"),
        (SETTING, {"dataset": 7}, TypeError, r"Setting: dataset must be text; got 7 \(int\)"),
        (
            SETTING,
            {"net": HINGE},
            TypeError,
            "Setting: net must be NetConfig or BaselineConfig; got",
        ),
    ],
)
def test_a_value_of_another_type_is_named(config, change, error, message):
    with pytest.raises(error, match=message):
        replace(config, **change)


def test_numbers_of_numpy_become_python_s():
    config = replace(
        HINGE, lr=np.float64(0.1), epochs=[np.int64(1), 2, 3], batch_size=np.int32(8), p_start=2
    )
    assert config == replace(HINGE, lr=0.1, epochs=(1, 2, 3), batch_size=8, p_start=2)
    assert plain(to_dict(config))
    assert type(config.p_start) is int  # as it was given: records say 2, not 2.0
