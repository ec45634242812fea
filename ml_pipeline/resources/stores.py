"""Where artifacts lie: MLflow's URLs as fsspec takes them."""

from __future__ import annotations

from pathlib import Path
from typing import Any
from urllib.parse import unquote


def open_store(url: str) -> tuple[Any, str]:
    """The file system of a URL, and the path in it.

    MLflow quotes the path of a file URL, fsspec takes it literally. What older versions stored under a quoted name is
    still found there.
    """
    import fsspec

    if url.startswith("file://"):
        quoted = url.removeprefix("file://")
        path = unquote(quoted)
        is_old = path != quoted and not Path(path).exists() and Path(quoted).exists()
        url = quoted if is_old else path
    return fsspec.url_to_fs(url)
