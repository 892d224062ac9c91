"""Table 8: the convolutional network as the paper prints it  [Zhang2021, Table 8]."""

from linfdist.experiments.table5 import MLP_LAYERS
from linfdist.experiments.tables import ArchitectureTable

TABLE = ArchitectureTable(
    number=8,
    title="Table 8. Details of convolutional network architectures",
    layers={
        "table9/cifar10_conv_net_mlp": (
            "ℓ∞-dist-conv(3, 128, kernel=3)+Norm",
            "ℓ∞-dist-conv(128, 128, kernel=3)+Norm",
            "ℓ∞-dist-conv(128, 256, kernel=3, stride=2)+Norm",
            "ℓ∞-dist-conv(256, 256, kernel=3)+Norm",
            "ℓ∞-dist-conv(256, 256, kernel=3)+Norm",
            "ℓ∞-dist(512)+Norm",
            *MLP_LAYERS,
        ),
    },
)
