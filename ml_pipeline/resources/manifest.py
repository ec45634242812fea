"""The manifest of a version: its tenant and model, and SHA-256 and size of each file, checked at every read."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from pathlib import Path

from ml_pipeline.errors import UserError
from ml_pipeline.resources import store
from ml_pipeline.resources.version import Version

MANIFEST = "manifest.json"
LARGEST, LARGEST_MANIFEST = 2**31, 2**20  # bytes, if the size of a file is not known


class TamperedArtifact(UserError):
    """A stored file differs from the registered one; the message names tenant, model, version and file."""


def write_manifest(folder: Path, tenant: str, model: str, key: str) -> str:
    """Write the manifest of the files in ``folder``; return the SHA-256 of the manifest."""
    files = {
        path.name: {"sha256": _sha256(path), "bytes": path.stat().st_size}
        for path in sorted(folder.iterdir())
        if path.name != MANIFEST
    }
    content = {"tenant": tenant, "model": model, "key": key, "files": files}
    manifest = folder / MANIFEST
    manifest.write_text(json.dumps(content, indent=1, sort_keys=True), encoding="utf-8")
    return _sha256(manifest)


def checked_file(version: Version, folder: str, name: str) -> bytes | None:
    """The content of one file, None if the version was registered without this file.

    Raises
    ------
    TamperedArtifact
        If the manifest or the file differs from the registered one.
    """
    expected = _listed(version, folder, _manifest(version, folder))
    return _checked(version, folder, name, *expected[name]) if name in expected else None


def _manifest(version: Version, folder: str) -> bytes:
    return _checked(version, folder, MANIFEST, version.tags["manifest_sha256"], None, at_most=LARGEST_MANIFEST)


def _listed(version: Version, folder: str, manifest: bytes) -> dict[str, tuple[str, int | None]]:
    """SHA-256 and size of each file by name, after a check that the manifest belongs to the version.

    A manifest of an earlier release contains hashes only; its tenant and model are in ``ml.versions``.
    """
    content = json.loads(manifest)
    if "files" not in content:
        return {name: (digest, None) for name, digest in content.items()}
    whose = {"tenant": version.tenant, "model": version.model, "key": version.tags["key"]}
    for name, expected in whose.items():
        if content[name] != expected:
            raise _tampered(version, folder, MANIFEST, f"belongs to {name} {content[name]!r}, not {expected!r}")
    return {name: (entry["sha256"], entry["bytes"]) for name, entry in content["files"].items()}


def checked_files(version: Version, folder: str) -> Iterator[tuple[str, bytes]]:
    """Name and content of the manifest and of every file that it lists.

    Raises
    ------
    TamperedArtifact
        If a file differs from the registered one, is missing, or was added.
    """
    manifest = _manifest(version, folder)
    yield MANIFEST, manifest
    expected = _listed(version, folder, manifest)
    try:
        found = store.names(folder) - {MANIFEST}
    except store.Unreadable as error:
        raise _tampered(version, folder, "its folder", str(error)) from error
    if changed := sorted(found ^ set(expected)):
        what = "is missing" if changed[0] in expected else "was added"
        raise _tampered(version, folder, changed[0], what)
    for name, (digest, size) in expected.items():
        yield name, _checked(version, folder, name, digest, size)


def _checked(
    version: Version, folder: str, name: str, registered: str, size: int | None, at_most: int = LARGEST
) -> bytes:
    """The content of one file; raises ``TamperedArtifact`` if its hash is not the registered one."""
    try:
        content = store.read(f"{folder}/{name}", size=size, at_most=at_most)
    except store.Unreadable as error:
        raise _tampered(version, folder, name, str(error)) from error
    actual = hashlib.sha256(content).hexdigest()
    if actual != registered:
        raise _tampered(version, folder, name, f"has SHA-256 {actual[:12]}..., registered {registered[:12]}...")
    return content


def _tampered(version: Version, folder: str, name: str, what: str) -> TamperedArtifact:
    return TamperedArtifact(
        f"tenant {version.tenant}, model {version.model}, version {version.number}: {name} {what}. It was not loaded. "
        f"Restore it under {folder}, or roll back with `ml-pipeline rollback`"
    )


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
