"""Table 6: the training settings as the paper prints them  [Zhang2021, Table 6]."""

from collections.abc import Mapping

from linfdist.experiments.tables import HyperParameterTable

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


TABLE = HyperParameterTable(
    number=6,
    title="Table 6. Hyper-parameters of Tables 1 and 2",
    settings={
        "table1/mnist_net": _column(t="0.9", epochs="50 300 50 400"),
        "table1/mnist_net_mlp": _column(eps="0.35", kappa="0.5", epochs="50 300 50 400"),
        "table1/fashion_mnist_net": _column(t="0.45", epochs="50 300 50 400"),
        "table1/fashion_mnist_net_mlp": _column(eps="0.11", kappa="0.5", epochs="50 300 50 400"),
        "table1/cifar10_net": _column(t="80/255", epochs="100 650 50 800"),
        "table1/cifar10_net_mlp": _column(eps="8.8/255", kappa="0", epochs="100 650 50 800"),
        "table2/tinyimagenet_net_mlp": _column(
            eps="0.005", kappa="0", epochs="100 350 50 500", lr="0.04"
        ),
    },
)
