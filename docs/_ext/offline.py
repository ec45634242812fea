"""Fails the build if a page would load a file from another server.

Links that a reader may follow are fine; a script, style sheet, font or picture from elsewhere is not: the site has to
look the same on a machine without a network, and reading it must tell nobody.
"""

from __future__ import annotations

import re
from html.parser import HTMLParser
from pathlib import Path

from sphinx.application import Sphinx
from sphinx.util import logging

_REMOTE = re.compile(r"\s*(https?:)?//", re.IGNORECASE)
_IN_CSS = re.compile(r"""(?:url\(\s*|@import\s+)["']?((?:https?:)?//[^"')\s]+)""", re.IGNORECASE)
# Elements whose addresses a browser loads; `a` and `form` need a click, and `link` depends on its relation.
_LOADS = {"src", "srcset", "data", "poster", "xlink:href"}
_FETCHED_RELATIONS = {
    "stylesheet",
    "icon",
    "preload",
    "modulepreload",
    "prefetch",
    "preconnect",
    "dns-prefetch",
    "manifest",
}


class _Loads(HTMLParser):
    """Addresses that a page loads from another server."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        values = {name: value or "" for name, value in attrs}
        loaded = [values[name] for name in _LOADS & values.keys()]
        if tag == "link" and _FETCHED_RELATIONS & set(values.get("rel", "").lower().split()):
            loaded.append(values.get("href", ""))
        if tag in ("image", "use"):
            loaded.append(values.get("href", ""))
        self.found += [address for address in loaded if _REMOTE.match(address)]
        self.found += _IN_CSS.findall(values.get("style", ""))


def loads_from_elsewhere(name: str, text: str) -> list[str]:
    """Addresses on other servers that a page or style sheet loads.

    >>> loads_from_elsewhere("a.html", '<script src="https://cdn.example/x.js"></script><a href="https://example/">x</a>')
    ['https://cdn.example/x.js']
    >>> loads_from_elsewhere("a.css", '@font-face {src: url("//fonts.example/a.woff2")}')
    ['//fonts.example/a.woff2']
    """
    if name.endswith(".css"):
        return _IN_CSS.findall(text)
    page = _Loads()
    page.feed(text)
    return page.found + _IN_CSS.findall("".join(re.findall(r"<style[^>]*>(.*?)</style>", text, re.DOTALL)))


def check(folder: Path) -> list[str]:
    """A sentence for each address that a file below ``folder`` loads from another server."""
    files = sorted(path for suffix in ("*.html", "*.css", "*.svg") for path in folder.rglob(suffix))
    return [
        f"{path.relative_to(folder)} loads {address}"
        for path in files
        for address in loads_from_elsewhere(path.name, path.read_text(encoding="utf-8"))
    ]


def _check_site(app: Sphinx, exception: Exception | None) -> None:
    if exception is not None or app.builder.format != "html":
        return
    for problem in check(Path(app.outdir)):
        logging.getLogger(__name__).warning("%s from another server. Put the file into docs/_static.", problem)
        app.statuscode = 1  # also without -W


def setup(app: Sphinx) -> dict[str, bool]:
    app.connect("build-finished", _check_site)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
