"""Feature snapshots: Parquet files in the tenant's folder, named by the hash of their content."""

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
    """A snapshot is missing from the artifact store, or differs from the stored one."""


class Snapshots:
    """Writes and reads the feature snapshots of tenants."""

    def __init__(self, settings: Settings) -> None:
        self.root = settings.artifacts.rstrip("/")

    def write(self, tenant: str, model: str, frame: pd.DataFrame) -> tuple[str, str]:
        """Store the frame unless it is stored already; return its content hash and its URL.

        An existing file is read and checked: an incomplete or different one is replaced.

        Raises
        ------
        BadIdentifier
            If the tenant's id or the model's name is not allowed in paths.
        Unwritable
            If the artifact store cannot be written.
        """
        digest = content_hash(frame)
        url = f"{self.root}/snapshots/{check_tenant_id(tenant)}/{check_model_name(model)}/{digest[:24]}.parquet"
        if store.exists(url):
            try:
                self.read(url, digest, tenant=tenant)
            except SnapshotUnusable as error:
                logger.warning("tenant %s, model %s: a damaged snapshot is replaced: %s", tenant, model, error)
                store.remove(url)  # it may be a folder or a link
            else:
                return digest, url
        buffer = io.BytesIO()
        frame.to_parquet(buffer, index=False, compression="zstd")
        store.put(url, buffer.getvalue())
        return digest, url

    def check(self) -> None:
        """Check that the artifact store can be written.

        Raises
        ------
        SnapshotUnusable
            If it cannot; the message names store and reason.
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
        """Delete a snapshot of the tenant if it exists.

        Raises
        ------
        SnapshotUnusable
            If the URL is not one of the tenant's snapshots, or the store refuses to delete it.
        """
        if not self.owns(tenant, url):
            raise SnapshotUnusable(f"{url} is not a snapshot of tenant {tenant} in {self.root}. It was not deleted")
        try:
            store.remove_file(self._present(url))
        except OSError as error:
            raise SnapshotUnusable(f"{url} cannot be deleted: {error}. Correct the rights on it") from error

    def remove_begun(self, tenant: str, older_than: float) -> int:
        """Delete incomplete files of the tenant that are older than ``older_than`` seconds; return their number.

        Killed processes leave such files on a local disk only: object stores show complete files only.
        """
        return store.remove_begun(f"{self.root}/snapshots/{tenant}", older_than)

    def read(self, url: str, digest: str, *, tenant: str) -> pd.DataFrame:
        """The frame that ``write`` stored under this hash and URL, also after the installation was moved.

        Raises
        ------
        SnapshotUnusable
            If the URL is not one of the tenant's snapshots, or the file is missing or differs from the stored one.
        """
        if not self.owns(tenant, url):
            raise SnapshotUnusable(
                f"{url} is not a snapshot of tenant {tenant} in {self.root}. It was not read. Materialize the features "
                "of the tenant again"
            )
        here = self._present(url)
        try:
            content = store.read(here)
            frame = pd.read_parquet(io.BytesIO(content))
        except store.Unreadable as error:
            what = "is missing" if isinstance(error, store.Missing) else str(error)
            raise SnapshotUnusable(f"{here} {what}. Materialize the features of tenant {tenant} again") from error
        except (ValueError, OSError) as error:  # raised by the reader if the bytes are not Parquet
            raise SnapshotUnusable(
                f"{here} cannot be read as Parquet ({str(error).splitlines()[0]}). Materialize the features of tenant "
                f"{tenant} again"
            ) from error
        if content_hash(frame) != digest:
            raise SnapshotUnusable(
                f"{here} differs from what was stored: its hash is another. Materialize the features of tenant "
                f"{tenant} again"
            )
        return frame

    def _present(self, url: str) -> str:
        """The URL of the snapshot in the current artifact store."""
        folder = "/".join(url.split("/")[-4:-1])  # snapshots, tenant, model
        return store.as_url(store.present(self.root, url, folder))


def content_hash(frame: pd.DataFrame) -> str:
    """SHA-256 of names, types and values; the same in every process, and before and after a file was written."""
    digest = hashlib.sha256()
    for name in frame.columns:
        column = frame[name]
        # Text read from a file has another dtype than text that was built, so the dtype of text is not hashed.
        kind = column.dtype if column.dtype.kind in "fM" else "text"
        digest.update(f"{name}\x00{kind}\x00".encode())
        if column.dtype == np.float64:
            digest.update(np.ascontiguousarray(column.to_numpy()).tobytes())
        else:
            digest.update(pd.util.hash_pandas_object(column, index=False).to_numpy().tobytes())
    return digest.hexdigest()
