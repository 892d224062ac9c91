"""Table 7: depth and initialisation on CIFAR-10  [Zhang2021, App. E]."""

from dataclasses import replace

from linfdist.experiments import table1, table3
from linfdist.experiments.base import Experiment, PaperNumbers, Setting
from linfdist.experiments.table1 import NET
from linfdist.experiments.tables import Comparison, Table

STARTS = {"gaussian": "Gaussian", "identity": "identity map"}
PRINTED = {  # train and test accuracy
    "gaussian": {
        5: (63.01, 55.76),
        6: (63.46, 55.85),
        7: (63.82, 56.77),
        8: (63.46, 56.72),
        9: (61.57, 55.94),
        10: (58.72, 55.04),
    },
    "identity": {
        5: (65.93, 56.56),
        6: (65.51, 56.80),
        7: (66.58, 57.06),
        8: (67.11, 56.64),
        9: (67.52, 57.01),
        10: (68.84, 57.18),
    },
}


def _scales(start: str, layers: int) -> dict[str, Setting]:
    """Table 1's row with ``layers`` layers, including the last, which has one neuron per class."""
    base = table1.BY_NAME["table1/cifar10_net"].scales
    hidden = layers - 1
    net, _ = base["paper"].dist_net()
    scales = {
        "smoke": table3.tiny(base["smoke"], hidden),
        "reduced": table3.short(base["reduced"], hidden),
        "paper": replace(base["paper"], net=replace(net, hidden=(5120,) * hidden)),
    }
    if start == "identity":
        return scales
    return {name: _gaussian(setting) for name, setting in scales.items()}


def _gaussian(setting: Setting) -> Setting:
    net, _ = setting.dist_net()
    return replace(setting, net=replace(net, identity_value=None))


def _experiment(start: str, layers: int, train: float, test: float) -> Experiment:
    return Experiment(
        name=f"table7/{start}_{layers}",
        title=NET,
        paper=PaperNumbers.percent("", test, train=train),
        scales=_scales(start, layers),
        switches={"initialisation": STARTS[start], "layers": f"{layers}"},
    )


_ROWS = tuple(
    _experiment(start, layers, *numbers)
    for start, rows in PRINTED.items()
    for layers, numbers in rows.items()
)
_GAUSSIAN, _IDENTITY = _ROWS[: len(_ROWS) // 2], _ROWS[len(_ROWS) // 2 :]
# App. E: the training accuracy drops with depth after a Gaussian start, not after the identity map.
_COMPARISONS = (
    Comparison(
        title="Gaussian: 10 layers − 7",
        before=_GAUSSIAN[2],
        after=_GAUSSIAN[-1],
        accuracy="train",
    ),
    Comparison(
        title="identity map: 10 layers − 7",
        before=_IDENTITY[2],
        after=_IDENTITY[-1],
        accuracy="train",
    ),
    *(
        Comparison(
            title=f"identity map − Gaussian, {after.switches['layers']} layers",
            before=before,
            after=after,
            accuracy="train",
        )
        for before, after in zip(_GAUSSIAN, _IDENTITY, strict=True)
    ),
)

TABLE = Table(
    number=7,
    title="Table 7. Depth and initialisation, CIFAR-10",
    rows=_ROWS,
    comparisons=_COMPARISONS,
)
