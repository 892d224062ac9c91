"""Messages for names that are not known."""

from collections.abc import Iterable
from difflib import get_close_matches

FEW = 12  # names that an error still lists


def unknown(kind: str, name: str, known: Iterable[str], listed: str = "") -> str:
    """Say that ``name`` is no known ``kind``, what was probably meant, and what is known.

    Where many are known, ``listed`` says what shows them all.
    """
    known = list(known)
    close = get_close_matches(name, known, n=2)
    meant = f" Did you mean {' or '.join(repr(match) for match in close)}?" if close else ""
    if listed and len(known) > FEW:
        return f"Unknown {kind} {name!r}.{meant} {listed} shows all {len(known)}."
    return f"Unknown {kind} {name!r}.{meant} Known: {', '.join(known)}."
