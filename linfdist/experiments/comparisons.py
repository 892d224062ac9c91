"""The differences of two rows that the paper's text states  [Zhang2021, Sec. 7].

The differences within Tables 3 and 7 are the ``comparisons`` of those tables.
"""

from linfdist.experiments import table1, table2, table9
from linfdist.experiments.base import Experiment, QuotedRow
from linfdist.experiments.tables import Comparison

_SHORT = {"mnist": "MNIST", "fashion_mnist": "Fashion-MNIST", "cifar10": "CIFAR-10"}


def _over(name: str, before: Experiment | QuotedRow, after: str, accuracy: str) -> Comparison:
    """The comparison of ``before`` with one of the paper's own rows."""
    return Comparison(title=name, before=before, after=table1.BY_NAME[after], accuracy=accuracy)


(_WIDE_RESNET,) = (row for row in table2.TABLE.quoted if row.title == table2.WIDE_RESNET)
(_TINY_MLP,) = (row for row in table2.TABLE.rows if row.title == table2.NET_MLP)

COMPARISONS = (
    _over(
        "CIFAR-10, ℓ∞-dist Net+MLP − IBP",
        table1.BY_NAME["table1/cifar10_ibp"],
        "table1/cifar10_net_mlp",
        "certified",
    ),
    _over(
        "CIFAR-10, ℓ∞-dist Net+MLP − CROWN-IBP with loss fusion, the best before",
        table1.BY_NAME["table1/cifar10_loss_fusion"],
        "table1/cifar10_net_mlp",
        "certified",
    ),
    Comparison(
        title="TinyImageNet, ℓ∞-dist Net+MLP − WideResNet, the best before",
        before=_WIDE_RESNET,
        after=_TINY_MLP,
    ),
    _over(
        "CIFAR-10, ℓ∞-dist Net − COLT, the best before",
        table1.BY_NAME["table1/cifar10_colt"],
        "table1/cifar10_net",
        "test",
    ),
    _over(
        "MNIST, ℓ∞-dist Net − Group Sort",
        table1.BY_NAME["table1/mnist_group_sort"],
        "table1/mnist_net",
        "certified",
    ),
    *(
        _over(
            f"{title}, ℓ∞-dist Net+MLP − Net",
            table1.BY_NAME[f"table1/{dataset}_net"],
            f"table1/{dataset}_net_mlp",
            "certified",
        )
        for dataset, title in _SHORT.items()
    ),
    *(
        _over(
            f"{title}, ℓ∞-dist Net+MLP − CROWN-IBP",
            table1.BY_NAME[f"table1/{dataset}_crown_ibp"],
            f"table1/{dataset}_net_mlp",
            "test",
        )
        for dataset, title in _SHORT.items()
    ),
    Comparison(
        title="CIFAR-10, convolutional ℓ∞-dist Net+MLP − CROWN-IBP with loss fusion",
        before=table1.BY_NAME["table1/cifar10_loss_fusion"],
        after=table9.TABLE.rows[0],
    ),
)
