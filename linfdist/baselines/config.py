"""Which network of the compared methods, and how wide."""

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Literal

from linfdist.system.serialise import check_fields

BaselineKind = Literal[
    "dm_large", "dm_medium", "cnn7_bn", "resnet_tiny", "cap", "colt", "groupsort", "pvt"
]


@dataclass(frozen=True, kw_only=True)
class Layout:
    """A network in its published width.

    ``convs``: (out_channels, kernel, stride) of each convolution of padding (kernel − 1) // 2,
    ``hidden``: widths of the fully connected layers before the last.
    """

    convs: tuple[tuple[int, int, int], ...]
    hidden: tuple[int, ...]
    batch_norm: bool = False


# Of resnet_tiny, every convolution but the first stands for a residual block of two.
LAYOUTS: Mapping[BaselineKind, Layout] = MappingProxyType(
    {
        "dm_large": Layout(
            convs=((64, 3, 1), (64, 3, 1), (128, 3, 2), (128, 3, 1), (128, 3, 1)), hidden=(512,)
        ),
        "dm_medium": Layout(
            convs=((32, 3, 1), (32, 4, 2), (64, 3, 1), (64, 4, 2)), hidden=(512, 512)
        ),
        "cnn7_bn": Layout(
            convs=((64, 3, 1), (64, 3, 1), (128, 3, 2), (128, 3, 1), (128, 3, 2)),
            hidden=(512,),
            batch_norm=True,
        ),
        "resnet_tiny": Layout(convs=((16, 3, 1), (16, 3, 1), *[(32, 3, 1)] * 4), hidden=(500,)),
        "cap": Layout(convs=((16, 4, 2), (32, 4, 2)), hidden=(100,)),
        "colt": Layout(convs=((32, 5, 2), (128, 4, 2)), hidden=(250,)),
        "groupsort": Layout(convs=(), hidden=(1024, 1024, 1024)),
        "pvt": Layout(convs=((16, 4, 2), (32, 4, 1)), hidden=(100,)),
    }
)


@dataclass(frozen=True, kw_only=True)
class BaselineConfig:
    """A compared method's network, apart from what the data set fixes.

    ``dm_large``, ``dm_medium``: the large and medium networks of [Gowal2018, Table 1], for IBP and
    CROWN-IBP; ``cnn7_bn``: with batch normalisation, for TinyImageNet  [Xu2020]; ``resnet_tiny``:
    DiffAI's  [Mirman2019]; ``cap``: the small network of [WongKolter2018]; ``colt``:
    [Balunovic2020]'s for eps = 0.3 on MNIST and 8/255 on CIFAR-10; ``groupsort``: rows of l_1 norm
    1 and MaxMin  [Anil2019]; ``pvt``: the small one of [Gowal2018, Table 1] with a verifier, for
    [Dvijotham2018]'s is not known. Every width is multiplied by ``width`` and rounded; 1 is the
    published network, but that ``dm_medium`` and ``pvt`` pad by 1 where theirs do not pad.
    """

    kind: BaselineKind
    width: float = 1.0

    def __post_init__(self) -> None:
        check_fields(self)
        if not self.width > 0:
            raise ValueError(
                f"BaselineConfig: width must be above 0; got {self.width}. It multiplies the "
                "published widths: 1 is the published network."
            )

    @property
    def layout(self) -> Layout:
        """The layers at this width."""
        published = LAYOUTS[self.kind]
        return Layout(
            convs=tuple((self._scaled(c), kernel, stride) for c, kernel, stride in published.convs),
            hidden=tuple(self._scaled(features) for features in published.hidden),
            batch_norm=published.batch_norm,
        )

    def _scaled(self, width: int) -> int:
        """Even, for MaxMin's pairs, and at least 2."""
        return max(1, round(width * self.width / 2)) * 2
