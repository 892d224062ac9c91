"""Rows that test where the authors' code departs from the paper.

Each row is ``smoothing/mnist_net_lp`` of the smoothing study, with the same images and epochs and
the change that the title names. The unchanged row is what this package does.
"""

from dataclasses import replace
from fractions import Fraction

from linfdist.experiments import smoothing_study
from linfdist.experiments.base import Experiment, Setting

(BASE,) = (row for row in smoothing_study.EXPERIMENTS if row.name == "smoothing/mnist_net_lp")


def _experiment(
    name: str, title: str, *, times: Fraction = Fraction(1), mix: float | None = None
) -> Experiment:
    """The base row with the threshold multiplied by ``times``, and another ``mix`` if given."""
    scales = {scale: _changed(setting, times, mix) for scale, setting in BASE.scales.items()}
    return replace(BASE, name=f"differences/mnist_net_{name}", title=title, scales=scales)


def _changed(setting: Setting, times: Fraction, mix: float | None) -> Setting:
    _, train = setting.dist_net()
    hinge = setting.hinge()
    loss = replace(hinge, threshold=hinge.threshold * times, mix=hinge.mix if mix is None else mix)
    return replace(setting, train=replace(train, loss=loss))


EXPERIMENTS = (
    _experiment("mix_75", "hinge: 3/4 of the largest, 1/4 of the mean over classes", mix=0.75),
    _experiment("mix_0", "hinge: the mean over classes", mix=0.0),
    _experiment("half_t", "threshold t / 2", times=Fraction(1, 2)),
    _experiment("double_t", "threshold 2 t", times=Fraction(2)),
)
