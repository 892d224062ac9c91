"""The study of LogSumExp smoothing against the l_p schedule, at equal data and epochs.

At the reduced scale every row is a reduced row of Table 1 with the identity value −4, trained on
the first 10,240 training images and tested on all test images. The title names the row's change. At
the paper's scale a row is the paper's row with only that change.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from linfdist.experiments import table1
from linfdist.experiments.base import Experiment, Setting

_MATCHED = {"smoothing": "matched_lse", "p_start": 12.0, "p_end": 60.0}
_THEN = table1.LP_THEN_LSE


@dataclass(frozen=True)
class Variant:
    """A change of the training.

    ``longer`` multiplies all epochs; ``end`` also multiplies the epochs at p = ∞.
    """

    name: str
    title: str
    train: Mapping[str, Any]
    longer: float = 1.0
    end: float = 1.0
    identity_value: float = -4.0  # at the reduced scale


VARIANTS = (
    Variant("lp", "ℓp, p 8 → 1000", {}),
    Variant("lp_60", "ℓp, p 8 → 60", {"p_end": 60.0}),
    Variant("lp_from_minus_10", "ℓp, p 8 → 1000, identity value −10", {}, identity_value=-10.0),
    Variant("one", "LogSumExp, one t, 1.5 → 6", {"smoothing": "lse", "p_start": 1.5, "p_end": 6.0}),
    Variant("matched", "LogSumExp, matched, 12 → 60", _MATCHED),
    Variant(
        "relaxed", "LogSumExp, matched, 12 → 60, relaxed 9-fold", _MATCHED | {"relaxation": 9.0}
    ),
    Variant("then", "ℓp at 8, then LogSumExp, 20 → 60", _THEN),
    Variant("then_from_minus_10", "… identity value −10", _THEN, identity_value=-10.0),
    Variant("then_bf16", "… products in bfloat16", {**_THEN, "matmul_precision": "medium"}),
    Variant("then_unrelaxed", "… not relaxed", {**_THEN, "relaxation": 1.0}),
    Variant("then_from_12", "… 12 → 60", {**_THEN, "p_rise": 12.0}),
    Variant("then_30", "… 20 → 30", {**_THEN, "p_end": 30.0}),
    Variant("then_120", "… 20 → 120", {**_THEN, "p_end": 120.0}),
    Variant("then_240", "… 20 → 240", {**_THEN, "p_end": 240.0}),
    Variant("then_short_end", "… half as long at p = ∞", _THEN, end=0.5),
    Variant("then_long_end", "… twice as long at p = ∞", _THEN, end=2.0),
    Variant("then_long", "… 2.5 times the epochs", _THEN, longer=2.5),
)


def _experiment(row: str, variant: Variant) -> Experiment:
    base = table1.BY_NAME[f"table1/{row}"]
    scales = {name: _changed(setting, variant) for name, setting in base.scales.items()}
    net, train = scales["reduced"].dist_net()
    scales["reduced"] = replace(
        scales["reduced"],
        net=replace(net, identity_value=variant.identity_value),
        train=replace(train, train_images=10_240),
    )
    name = f"smoothing/{row}_{variant.name}"
    return replace(base, name=name, title=variant.title, scales=scales)


def _changed(setting: Setting, variant: Variant) -> Setting:
    e1, e2, e3 = (round(variant.longer * epochs) for epochs in setting.train.epochs)
    epochs = (e1, e2, max(1, round(variant.end * e3)))
    return replace(setting, train=replace(setting.train, epochs=epochs, **variant.train))


BASE_ROWS = ("mnist_net", "cifar10_net")  # of Table 1
EXPERIMENTS = tuple(_experiment(row, variant) for row in BASE_ROWS for variant in VARIANTS)
