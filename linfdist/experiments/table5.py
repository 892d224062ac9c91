"""Table 5: the fully connected networks as the paper prints them  [Zhang2021, Table 5].

The table has one column for MNIST and Fashion-MNIST. It leaves out TinyImageNet, whose network is
CIFAR-10's with 200 classes (Sec. 7.1).
"""

from linfdist.experiments.tables import ArchitectureTable

_HIDDEN = "ℓ∞-dist(5120)+Norm"
MLP_LAYERS = ("FC(512)+Tanh", "FC(10)")

TABLE = ArchitectureTable(
    number=5,
    title="Table 5. Details of network architectures",
    layers={
        "table1/mnist_net": (*[_HIDDEN] * 4, "ℓ∞-dist(10)"),
        "table1/mnist_net_mlp": (*[_HIDDEN] * 4, *MLP_LAYERS),
        "table1/cifar10_net": (*[_HIDDEN] * 5, "ℓ∞-dist(10)"),
        "table1/cifar10_net_mlp": (*[_HIDDEN] * 5, *MLP_LAYERS),
    },
)
