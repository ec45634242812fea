"""References in docstrings to objects without a page become plain text if the object exists."""

from __future__ import annotations

import importlib

from docutils import nodes
from sphinx import addnodes
from sphinx.application import Sphinx
from sphinx.environment import BuildEnvironment


def exists(dotted: str) -> bool:
    """Whether a module, or an attribute of a module or class, has this name."""
    parts = dotted.split(".")
    for end in range(len(parts), 0, -1):
        try:
            found = importlib.import_module(".".join(parts[:end]))
        except ModuleNotFoundError:
            continue
        for name in parts[end:]:
            if name not in getattr(found, "__annotations__", {}) and not hasattr(found, name):
                return False
            found = getattr(found, name, None)
        return True
    return False


def _as_text(
    app: Sphinx, env: BuildEnvironment, node: addnodes.pending_xref, content: nodes.Element
) -> nodes.Element | None:
    target = node.get("reftarget", "")
    ours = node.get("refdomain") == "py" and target.startswith("ml_pipeline.")
    return content if ours and exists(target) else None


def setup(app: Sphinx) -> dict[str, bool]:
    app.connect("missing-reference", _as_text)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
