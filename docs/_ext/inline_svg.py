"""``{diagram} name.svg``: includes a drawing in the page, so that it uses the page's colours, light or dark."""

from __future__ import annotations

import re
from pathlib import Path

from docutils import nodes
from sphinx.application import Sphinx
from sphinx.util.docutils import SphinxDirective


class Diagram(SphinxDirective):
    """Shows a drawing from the page's folder; its ``title`` and ``desc`` are read by screen readers."""

    required_arguments = 1

    def run(self) -> list[nodes.Node]:
        relative, path = self.env.relfn2path(self.arguments[0])
        self.env.note_dependency(relative)
        drawing = Path(path).read_text(encoding="utf-8")
        drawing = re.sub(r"<\?xml.*?\?>|<!--.*?-->", "", drawing, flags=re.DOTALL).strip()
        return [nodes.raw("", f'<div class="diagram">{drawing}</div>', format="html")]


def setup(app: Sphinx) -> dict[str, bool]:
    app.add_directive("diagram", Diagram)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
