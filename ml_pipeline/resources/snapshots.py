"""Feature snapshots: one Parquet file per content, named by its hash, under the tenant's own folder."""

from __future__ import annotations

import hashlib
import io
import logging
import re
import uuid

import numpy as np
import pandas as pd

from ml_pipeline.errors import UserError
from ml_pipeline.identifiers import check_model_name, check_tenant_id, is_model_name, tenant_problem
from ml_pipeline.resources import store
from ml_pipeline.settings import Settings

logger = logging.getLogger(__name__)
_FILE = re.compile(r"[0-9a-f]{24}\.parquet")


class SnapshotUnusable(UserError):
    """A snapshot named by the database is not in the artifact store, or is not the one that was stored."""


class Snapshots:
    """Writes and reads the frozen feature frames of tenants."""

    def __init__(self, settings: Settings) -> None:
        self.root = settings.artifacts.rstrip("/")

    def write(self, tenant: str, model: str, frame: pd.DataFrame) -> tuple[str, str]:
        """Stores the frame unless it is stored; returns its content hash and its URL.

        What is there under its name is read: a file that is cut off, or holds something else, is replaced.

        Raises
        ------
        BadIdentifier
            If the tenant or the model has a name that is no safe part of a path.
        Unwritable
            If the artifact store takes no file.
        """
        digest = content_hash(frame)
        url = f"{self.root}/snapshots/{check_tenant_id(tenant)}/{check_model_name(model)}/{digest[:24]}.parquet"
        if store.exists(url):
            try:
                self.read(url, digest, tenant=tenant)
            except SnapshotUnusable as error:
                logger.warning("tenant %s, model %s: a snapshot is written again: %s", tenant, model, error)
                store.remove(url)  # a folder or a link in its place would stay in the way
            else:
                return digest, url
        buffer = io.BytesIO()
        frame.to_parquet(buffer, index=False, compression="zstd")
        store.put(url, buffer.getvalue())
        return digest, url

    def check(self) -> None:
        """Writes a file into the artifact store and removes it.

        Raises
        ------
        SnapshotUnusable
            If that fails; the message names the store and what it said.
        """
        url = f"{self.root}/{uuid.uuid4()}"
        try:
            store.put(url, b"")
            store.remove(url)
        except (OSError, ImportError, ValueError, store.Unwritable) as error:
            raise SnapshotUnusable(
                f"{self.root} cannot be written: {error}. Correct ML_PIPELINE_ARTIFACTS, or the rights on it"
            ) from error

    def owns(self, tenant: str, url: str) -> bool:
        """Whether the URL is one of the tenant's snapshots in this artifact store."""
        folder, here = f"{store.as_url(self.root)}/snapshots/{tenant}/", self._present(url)
        if tenant_problem(tenant) is not None or not here.startswith(folder):
            return False
        model, _, file = here.removeprefix(folder).partition("/")
        return is_model_name(model) and _FILE.fullmatch(file) is not None

    def remove(self, tenant: str, url: str) -> None:
        """Deletes a snapshot of the tenant; nothing happens if it is gone.

        Raises
        ------
        SnapshotUnusable
            If the URL is none of the tenant's snapshots, or the store does not let it be deleted.
        """
        if not self.owns(tenant, url):
            raise SnapshotUnusable(f"{url} is no snapshot of tenant {tenant} under {self.root}, and was not deleted")
        try:
            store.remove_file(self._present(url))
        except OSError as error:
            raise SnapshotUnusable(f"{url} cannot be deleted: {error}. Correct the rights on it") from error

    def remove_begun(self, tenant: str, older_than: float) -> int:
        """Deletes what a killed process had begun to write for the tenant, ``older_than`` seconds ago; how many files.

        Only on this machine's disk: an object store shows nothing that is not whole.
        """
        return store.remove_begun(f"{self.root}/snapshots/{tenant}", older_than)

    def read(self, url: str, digest: str, *, tenant: str) -> pd.DataFrame:
        """The tenant's frame behind the hash and URL that ``write`` returned, also where the installation was moved.

        Raises
        ------
        SnapshotUnusable
            If the URL is none of the tenant's snapshots, the file is gone, or it holds something else than what was
            written.
        """
        if not self.owns(tenant, url):
            raise SnapshotUnusable(
                f"{url} is no snapshot of tenant {tenant} under {self.root}, and was not read. Materialize the "
                "features of the tenant again"
            )
        here = self._present(url)
        try:
            content = store.read(here)
            frame = pd.read_parquet(io.BytesIO(content))
        except store.Unreadable as error:
            what = "is gone" if isinstance(error, store.Missing) else str(error)
            raise SnapshotUnusable(f"{here} {what}. Materialize the features of its tenant again") from error
        except (ValueError, OSError) as error:  # what the reader of Parquet raises on bytes that are none
            raise SnapshotUnusable(
                f"{here} cannot be read as Parquet ({str(error).splitlines()[0]}). Materialize the features again"
            ) from error
        if content_hash(frame) != digest:
            raise SnapshotUnusable(f"{here} is not what was stored under its hash. Materialize the features again")
        return frame

    def _present(self, url: str) -> str:
        """Where the snapshot is in the artifact store of today, as a URL."""
        folder = "/".join(url.split("/")[-4:-1])  # snapshots, tenant, model
        return store.as_url(store.present(self.root, url, folder))


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
