"""Pictures of small l_inf-dist networks for the book."""

from collections.abc import Sequence

from matplotlib.axes import Axes
from torch import Tensor

from linfdist.system.inputs import float_tensor, positive
from linfdist.system.values import shown

PLUS, MINUS, UNUSED = "#3b7dd8", "#d9822b", "#cccccc"


def draw_network(
    ax: Axes,
    layers: Sequence[Tensor],
    names: Sequence[Sequence[str]],
    *,
    offset: float,
    shifts: bool = True,
) -> None:
    """Draw layers of selecting neurons from left to right.

    The colour of a line says how the neuron uses the input:

    - blue: with its sign (weight below −offset / 2);
    - orange: with the opposite sign (weight above offset / 2);
    - grey: not at all.

    Args:
        ax: the axes to draw on.
        layers: the weights of each layer, of shape (out, in).
        names: the text of each node, one list for the inputs and one per layer.
        offset: the offset of the neurons.
        shifts: write the added constant on each line.
    """
    offset = positive(offset, "draw_network", "offset")
    if not isinstance(layers, Sequence) or not layers:
        raise TypeError(
            f"draw_network: layers must be a sequence of at least one weight; got {shown(layers)}."
        )
    for weight in layers:
        float_tensor(weight, "draw_network", "each of layers", 2)
    sizes = [layers[0].shape[1], *(len(weight) for weight in layers)]
    if not isinstance(names, Sequence) or not all(isinstance(each, Sequence) for each in names):
        raise TypeError(
            "draw_network: names must hold a sequence of strings for each column; got "
            f"{shown(names)}."
        )
    if [len(column) for column in names] != sizes:
        raise ValueError(
            f"draw_network: names must have {sizes} entries, for the inputs and each layer; got "
            f"{[len(column) for column in names]}."
        )
    heights = [[(size - 1) / 2 - i for i in range(size)] for size in sizes]
    for column, weight in enumerate(layers):
        for (j, k), value in _entries(weight):
            taken = abs(value) > offset / 2
            color = UNUSED if not taken else MINUS if value > 0 else PLUS
            start, end = heights[column][k], heights[column + 1][j]
            ax.plot(
                (column, column + 1), (start, end), color=color, lw=1.8 if taken else 0.8, zorder=1
            )
            shift = abs(value) - offset
            if shifts and taken and abs(shift) > 1e-12:
                ax.text(
                    column + 0.35,
                    start + 0.35 * (end - start),
                    f"{shift:+.3g}",
                    fontsize=8,
                    ha="center",
                    va="center",
                    bbox={"facecolor": "white", "edgecolor": "none", "pad": 0.5},
                )
    for column, (texts, rows) in enumerate(zip(names, heights, strict=True)):
        for text, height in zip(texts, rows, strict=True):
            face = "white" if column == 0 else "#e8eef7"
            ax.text(
                column,
                height,
                text,
                ha="center",
                va="center",
                fontsize=8.5,
                bbox={"boxstyle": "round,pad=0.35", "facecolor": face, "edgecolor": "#4a6fa5"},
                zorder=2,
            )
    tallest = max(sizes)
    ax.set(xlim=(-0.45, len(sizes) - 0.55), ylim=(-tallest / 2, tallest / 2))
    ax.axis("off")


def _entries(weight: Tensor) -> list[tuple[tuple[int, int], float]]:
    """((row, column), value) of a matrix, smallest magnitude first, so that it is drawn lowest."""
    entries = [((j, k), v) for j, row in enumerate(weight.tolist()) for k, v in enumerate(row)]
    return sorted(entries, key=lambda entry: abs(entry[1]))
