"""Rules for tenant ids and model names, which become parts of paths, keys, names and URLs."""

from __future__ import annotations

import re
from collections.abc import Iterable

from ml_pipeline.errors import UserError

MAX_TENANT_BYTES = 100

# An allow-list, without characters that are special in file systems, URLs, Dagster's partition keys, MLflow's names and
# filters, SQL or shells. A dot is allowed between other characters only, so that no part of a path is '.' or '..'.
_TENANT = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]*(\.[A-Za-z0-9_-]+)*")
_ALLOWED = re.compile(r"[A-Za-z0-9_.-]")
_MODEL = re.compile(r"[a-z][a-z0-9_]{0,62}")


class BadIdentifier(UserError, ValueError):
    """A tenant id or model name is not allowed; the message contains it and the rule."""


def tenant_problem(tenant_id: str) -> str | None:
    """The reason why the text cannot be a tenant's id, or None. See also :func:`case_conflict`.

    >>> tenant_problem("acme.web-2"), tenant_problem("acme/web")
    (None, "contains '/'")
    >>> tenant_problem("../acme")
    "starts with '.' instead of a letter or digit"
    """
    if not tenant_id:
        return "is empty"
    if len(tenant_id.encode("utf-8", "surrogatepass")) > MAX_TENANT_BYTES:
        return f"is longer than {MAX_TENANT_BYTES} bytes"
    if _TENANT.fullmatch(tenant_id):
        return None
    if not (tenant_id[0].isascii() and tenant_id[0].isalnum()):
        return f"starts with {tenant_id[0]!r} instead of a letter or digit"
    forbidden = next((character for character in tenant_id if not _ALLOWED.fullmatch(character)), None)
    return f"contains {forbidden!r}" if forbidden else "has a dot at its end, or two in a row"


def case_conflict(tenant_id: str, known: Iterable[str]) -> str | None:
    """The known tenant whose id differs from this one only in upper and lower case, or None.

    Such ids are refused, because file systems that ignore case would store both tenants in one folder.

    >>> case_conflict("Acme", ["globex", "acme"]), case_conflict("acme", ["acme"])
    ('acme', None)
    """
    return next((other for other in known if other != tenant_id and other.lower() == tenant_id.lower()), None)


def usable_tenants(candidates: Iterable[str], known: Iterable[str]) -> list[str]:
    """The candidates that can be tenants beside the known ones; of ids that differ only in case, the first.

    >>> usable_tenants(["Acme", "acme", "a b", "globex"], known=["Globex"])
    ['Acme']
    """
    taken, usable = list(known), []
    for candidate in candidates:
        if tenant_problem(candidate) is None and case_conflict(candidate, taken) is None:
            taken.append(candidate)
            usable.append(candidate)
    return usable


def check_tenant_id(tenant_id: str) -> str:
    """The id, if it can be one.

    Raises
    ------
    BadIdentifier
        If it cannot.
    """
    problem = tenant_problem(tenant_id)
    if problem:
        raise BadIdentifier(
            f"tenant id {tenant_id[:200]!r} {problem}. Use at most {MAX_TENANT_BYTES} letters, digits, '-', '_' and "
            "single '.', starting with a letter or digit"
        )
    return tenant_id


def is_model_name(name: str) -> bool:
    """Whether the text can be the name of a model.

    >>> is_model_name("story_points"), is_model_name("../story")
    (True, False)
    """
    return _MODEL.fullmatch(name) is not None


def check_model_name(name: str) -> str:
    """The name, if it can be one.

    Raises
    ------
    BadIdentifier
        If it cannot.
    """
    if not is_model_name(name):
        raise BadIdentifier(
            f"model name {name[:200]!r} cannot be used. Use at most 63 lower-case letters, digits and underscores, "
            "starting with a letter"
        )
    return name
