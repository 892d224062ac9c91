"""Error messages for unknown names."""

from collections.abc import Iterable
from difflib import get_close_matches

FEW = 12  # the most names that an error lists


def unknown(kind: str, name: str, known: Iterable[str], listed: str = "") -> str:
    """A message that ``name`` is no known ``kind``, with the closest matches and the known names.

    If there are more than ``FEW`` known names, the message refers to ``listed``, which shows them
    all.
    """
    known = list(known)
    close = get_close_matches(name, known, n=2)
    meant = f" Did you mean {' or '.join(repr(match) for match in close)}?" if close else ""
    if listed and len(known) > FEW:
        return f"Unknown {kind} {name!r}.{meant} {listed} shows all {len(known)}."
    return f"Unknown {kind} {name!r}.{meant} Known: {', '.join(known)}."
