"""Converts help texts of commands to reStructuredText: markup characters are escaped, `code` becomes code."""

from __future__ import annotations

import re

from sphinx.application import Sphinx

_CODE = re.compile(r"(?<!`)`([^`]+)`(?!`)")
_MARKUP = re.compile(r"(?<=\w)_(?!\w)|\*")


def as_text(line: str) -> str:
    r"""One line of a help text as reStructuredText.

    >>> as_text("See `set`, and the settings (ML_PIPELINE_..._DAYS).")
    'See ``set``, and the settings (ML_PIPELINE\\_..._DAYS).'
    """
    parts = _CODE.split(line)
    return "".join(f"``{part}``" if at % 2 else _MARKUP.sub(r"\\\g<0>", part) for at, part in enumerate(parts))


def _escape(app: Sphinx, context: object, lines: list[str]) -> None:
    lines[:] = [line if line.lstrip().startswith((".. ", "|")) else as_text(line) for line in lines]


def setup(app: Sphinx) -> dict[str, bool]:
    app.setup_extension("sphinx_click")
    for part in ("description", "options", "epilog"):
        app.connect(f"sphinx-click-process-{part}", _escape)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
