"""Feature snapshots: one Parquet file per content, named by its hash, under the tenant's own folder."""

from __future__ import annotations

import hashlib
import io
import re
import uuid

import numpy as np
import pandas as pd

from ml_pipeline.identifiers import check_model_name, check_tenant_id, is_model_name, tenant_problem
from ml_pipeline.settings import Settings

_FILE = re.compile(r"[0-9a-f]{24}\.parquet")


class SnapshotUnusable(Exception):
    """A snapshot named by the database is not in the artifact store, or is not the one that was stored."""


class Snapshots:
    """Writes and reads the frozen feature frames of tenants."""

    def __init__(self, settings: Settings) -> None:
        self.root = settings.artifacts.rstrip("/")

    def write(self, tenant: str, model: str, frame: pd.DataFrame) -> tuple[str, str]:
        """Stores the frame unless it is stored; returns its content hash and its URL.

        Raises
        ------
        BadIdentifier
            If the tenant or the model has a name that is no safe part of a path.
        """
        import fsspec

        digest = content_hash(frame)
        folder = f"{self._folder(check_tenant_id(tenant))}{check_model_name(model)}"
        url = f"{folder}/{digest[:24]}.parquet"
        filesystem, path = fsspec.url_to_fs(url)
        if not filesystem.exists(path):
            filesystem.makedirs(path.rsplit("/", 1)[0], exist_ok=True)
            buffer = io.BytesIO()
            frame.to_parquet(buffer, index=False, compression="zstd")
            # A reader never sees half a file: it appears under its name when it is whole.
            with filesystem.transaction, filesystem.open(path, "wb") as file:
                file.write(buffer.getvalue())
        return digest, url

    def check(self) -> None:
        """Writes a file into the artifact store and removes it.

        Raises
        ------
        SnapshotUnusable
            If that fails; the message names the store and what it said.
        """
        import fsspec

        try:
            filesystem, path = fsspec.url_to_fs(f"{self.root}/{uuid.uuid4()}")
            filesystem.makedirs(path.rsplit("/", 1)[0], exist_ok=True)
            filesystem.pipe_file(path, b"")
            filesystem.rm_file(path)
        except (OSError, ImportError, ValueError) as error:
            raise SnapshotUnusable(
                f"{self.root} cannot be written: {error}. Correct ML_PIPELINE_ARTIFACTS, or the rights on it"
            ) from error

    def _folder(self, tenant: str) -> str:
        return f"{self.root}/snapshots/{tenant}/"

    def owns(self, tenant: str, url: str) -> bool:
        """Whether the URL is one of the tenant's snapshots in this artifact store."""
        if tenant_problem(tenant) is not None or not url.startswith(self._folder(tenant)):
            return False
        model, _, file = url.removeprefix(self._folder(tenant)).partition("/")
        return is_model_name(model) and _FILE.fullmatch(file) is not None

    def remove(self, tenant: str, url: str) -> None:
        """Deletes a snapshot of the tenant; nothing happens if it is gone.

        Raises
        ------
        SnapshotUnusable
            If the URL is none of the tenant's snapshots, or the store does not let it be deleted.
        """
        import fsspec

        if not self.owns(tenant, url):
            raise SnapshotUnusable(f"{url} is no snapshot of tenant {tenant} under {self.root}, and was not deleted")
        filesystem, path = fsspec.url_to_fs(url)
        try:
            filesystem.rm_file(path)
        except FileNotFoundError:
            return
        except OSError as error:
            raise SnapshotUnusable(f"{url} cannot be deleted: {error}. Correct the rights on it") from error

    def read(self, url: str, digest: str, *, tenant: str) -> pd.DataFrame:
        """The tenant's frame behind the hash and URL that ``write`` returned.

        Raises
        ------
        SnapshotUnusable
            If the URL is none of the tenant's snapshots, the file is gone, or it holds something else than what was
            written.
        """
        import fsspec

        if not self.owns(tenant, url):
            raise SnapshotUnusable(
                f"{url} is no snapshot of tenant {tenant} under {self.root}, and was not read. Materialize the "
                "features of the tenant again"
            )

        filesystem, path = fsspec.url_to_fs(url)
        try:
            with filesystem.open(path, "rb") as file:
                frame = pd.read_parquet(file)
        except FileNotFoundError as error:
            raise SnapshotUnusable(f"{url} is gone. Materialize the features of its tenant again") from error
        if content_hash(frame) != digest:
            raise SnapshotUnusable(
                f"{url} is not what was stored under its hash. Remove it and materialize the features again"
            )
        return frame


def content_hash(frame: pd.DataFrame) -> str:
    """SHA-256 of names, types and values; equal for equal frames in any process, written to a file or not."""
    digest = hashlib.sha256()
    for name in frame.columns:
        column = frame[name]
        # Text comes back from a file as another dtype than it was built with, and is the same text.
        kind = column.dtype if column.dtype.kind in "fM" else "text"
        digest.update(f"{name}\x00{kind}\x00".encode())
        if column.dtype == np.float64:
            digest.update(np.ascontiguousarray(column.to_numpy()).tobytes())
        else:
            digest.update(pd.util.hash_pandas_object(column, index=False).to_numpy().tobytes())
    return digest.hexdigest()
