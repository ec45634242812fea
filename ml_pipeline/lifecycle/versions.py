"""Semantic version numbers of model versions."""

from __future__ import annotations

import re
from typing import NamedTuple

_SEMANTIC = re.compile(r"(\d+)\.(\d+)\.(\d+)")


class SpecFingerprint(NamedTuple):
    """Hashes of a specification: of the question (label, source, features), and of the whole specification."""

    question: str
    specification: str


def next_semantic(parent: str | None, parent_fingerprint: SpecFingerprint | None, fingerprint: SpecFingerprint) -> str:
    """Semantic version of a new model version.

    - Major: another question (label, source or features), so consumers must check their use of it.
    - Minor: the same question with another specification.
    - Patch: the same specification, trained on newer data.

    Parameters
    ----------
    parent : str or None
        Semantic version of the parent; None for a first version.
    parent_fingerprint, fingerprint : SpecFingerprint
        Hashes of the specifications of the parent and of the new version.

    Raises
    ------
    ValueError
        If ``parent`` is not of the form ``1.2.3``.

    >>> next_semantic(None, None, SpecFingerprint("q", "s"))
    '1.0.0'
    >>> next_semantic("1.0.4", SpecFingerprint("q", "s"), SpecFingerprint("q", "s"))
    '1.0.5'
    >>> next_semantic("1.0.4", SpecFingerprint("q", "s"), SpecFingerprint("q", "t"))
    '1.1.0'
    >>> next_semantic("1.1.0", SpecFingerprint("q", "s"), SpecFingerprint("r", "t"))
    '2.0.0'
    """
    if parent is None or parent_fingerprint is None:
        return "1.0.0"
    match = _SEMANTIC.fullmatch(parent)
    if match is None:
        raise ValueError(f"parent version is {parent!r}; give three numbers, such as 1.2.3")
    major, minor, patch = (int(part) for part in match.groups())
    if fingerprint.question != parent_fingerprint.question:
        return f"{major + 1}.0.0"
    if fingerprint.specification != parent_fingerprint.specification:
        return f"{major}.{minor + 1}.0"
    return f"{major}.{minor}.{patch + 1}"
