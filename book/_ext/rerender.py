"""A Sphinx extension: every build executes every notebook.

Sphinx renders again what has changed, but the numbers come from runs/, which it does not watch; a
new run would leave old tables in the book.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from sphinx.application import Sphinx
    from sphinx.environment import BuildEnvironment


def notebooks(
    app: Sphinx, env: BuildEnvironment, added: set[str], changed: set[str], removed: set[str]
) -> list[str]:
    """The documents to read again although their sources are as they were."""
    return [name for name in env.found_docs if str(env.doc2path(name)).endswith(".ipynb")]


def setup(app: Sphinx) -> dict[str, bool]:
    app.connect("env-get-outdated", notebooks)
    return {"parallel_read_safe": True}
