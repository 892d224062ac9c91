"""Tables 5, 6 and 8 as the paper prints them, keyed by experiment.

The settings that this package runs are in the modules of the other tables. Table 5 has one column
for MNIST and Fashion-MNIST. It leaves out TinyImageNet, whose network is CIFAR-10's with 200
classes (Sec. 7.1).
"""

from collections.abc import Mapping

_HIDDEN = "ℓ∞-dist(5120)+Norm"
_HEAD = ("FC(512)+Tanh", "FC(10)")

TABLE5: Mapping[str, tuple[str, ...]] = {
    "table1/mnist_net": (*[_HIDDEN] * 4, "ℓ∞-dist(10)"),
    "table1/mnist_net_mlp": (*[_HIDDEN] * 4, *_HEAD),
    "table1/cifar10_net": (*[_HIDDEN] * 5, "ℓ∞-dist(10)"),
    "table1/cifar10_net_mlp": (*[_HIDDEN] * 5, *_HEAD),
}

TABLE8: Mapping[str, tuple[str, ...]] = {
    "table9/cifar10_conv_net_mlp": (
        "ℓ∞-dist-conv(3, 128, kernel=3)+Norm",
        "ℓ∞-dist-conv(128, 128, kernel=3)+Norm",
        "ℓ∞-dist-conv(128, 256, kernel=3, stride=2)+Norm",
        "ℓ∞-dist-conv(256, 256, kernel=3)+Norm",
        "ℓ∞-dist-conv(256, 256, kernel=3)+Norm",
        "ℓ∞-dist(512)+Norm",
        *_HEAD,
    ),
}

_COMMON = {
    "Optimizer": "Adam(β1 = 0.9, β2 = 0.99, ε = 1e-10)",
    "Batch size": "512",
    "Learning rate": "0.02",
    "Weight decay": "0.005",
    "p_start": "8",
    "p_end": "1000",
}


def _column(
    *, eps: str = "", kappa: str = "", t: str = "", epochs: str, lr: str = "0.02"
) -> Mapping[str, str]:
    e1, e2, e3, total = epochs.split()
    return {
        **_COMMON,
        "Learning rate": lr,
        "ε_train": eps,
        "κ": kappa,
        "t": t,
        "e1": e1,
        "e2": e2,
        "e3": e3,
        "Total epochs": total,
    }


TABLE6: Mapping[str, Mapping[str, str]] = {
    "table1/mnist_net": _column(t="0.9", epochs="50 300 50 400"),
    "table1/mnist_net_mlp": _column(eps="0.35", kappa="0.5", epochs="50 300 50 400"),
    "table1/fashion_mnist_net": _column(t="0.45", epochs="50 300 50 400"),
    "table1/fashion_mnist_net_mlp": _column(eps="0.11", kappa="0.5", epochs="50 300 50 400"),
    "table1/cifar10_net": _column(t="80/255", epochs="100 650 50 800"),
    "table1/cifar10_net_mlp": _column(eps="8.8/255", kappa="0", epochs="100 650 50 800"),
    "table2/tinyimagenet_net_mlp": _column(
        eps="0.005", kappa="0", epochs="100 350 50 500", lr="0.04"
    ),
}
