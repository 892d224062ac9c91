"""What the notebooks need to refuse a misspelt parameter."""

import ast
from collections.abc import Sequence

from linfdist._suggest import unknown


class UnknownParameter(ValueError):
    """A notebook was given a parameter that it does not have."""


def check_parameters(cells: Sequence[str]) -> None:
    """Refuse parameters that the notebook does not have; call it as ``check_parameters(In)``.

    papermill puts the parameters that it is given into a cell of their own, and a misspelt one has
    no effect there. The first code cell must be the notebook's own parameters; the names that
    papermill's cell assigns must all be among them.

    Raises:
        UnknownParameter: naming the unknown parameter, what was probably meant, and all there are.
    """
    executed = [cell for cell in cells if cell.strip()]  # IPython's In[0] is empty
    known = _assigned(executed[0])
    # papermill heads its cell with this comment.
    injected = [cell for cell in executed[1:-1] if cell.startswith("# Parameters")]
    for cell in injected:
        for name in _assigned(cell):
            if name not in known:
                raise UnknownParameter(unknown("parameter", name, known))


def _assigned(cell: str) -> list[str]:
    """The plain names that a cell's assignments bind."""
    names = []
    for statement in ast.parse(cell).body:
        if isinstance(statement, ast.Assign):
            targets = statement.targets
        elif isinstance(statement, ast.AnnAssign):
            targets = [statement.target]
        else:
            continue
        names += [target.id for target in targets if isinstance(target, ast.Name)]
    return names
