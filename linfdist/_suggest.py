"""Messages for names that are not known."""

from collections.abc import Iterable
from difflib import get_close_matches


def unknown(kind: str, name: str, known: Iterable[str]) -> str:
    """Say that ``name`` is no known ``kind``, what was probably meant, and what is known."""
    known = list(known)
    close = get_close_matches(name, known, n=2)
    meant = f" Did you mean {' or '.join(repr(match) for match in close)}?" if close else ""
    return f"Unknown {kind} {name!r}.{meant} Known: {', '.join(known)}."
