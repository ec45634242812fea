"""Review counts of pull requests, from the nested arrays of GitHub's REST, GraphQL and ``gh`` exports.

A count is returned only if the export contains everything it needs; absent or unreadable parts make it unknown, not 0.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from typing import Any

from ml_pipeline.importers.checking import AHEAD, EARLIEST

_EARLIEST = EARLIEST.to_pydatetime()
_LOGINS = (("user", "login"), ("author", "login"), ("user",), ("author",))
_SUBMITTED = (("submitted_at",), ("submittedAt",))
# The committer's date: unlike the author's, a rebase updates it, and reviewers see the commit from then on.
_COMMITTED = (
    *(("committedDate",), ("committed_date",), ("commit", "committedDate"), ("commit", "committer", "date")),
    *(("authoredDate",), ("commit", "authoredDate"), ("commit", "author", "date")),
)


def review_counts(pull_request: dict[str, Any]) -> dict[str, int]:
    """``changes_requested`` and ``commits_after_first_review``, each only if it is known.

    Reviews by the author or by bots, and reviews that are not submitted, do not count.

    >>> review = {"user": {"login": "bob"}, "state": "CHANGES_REQUESTED", "submitted_at": "2025-01-02T00:00:00Z"}
    >>> commit = {"commit": {"committer": {"date": "2025-01-03T00:00:00Z"}}}
    >>> review_counts({"user": {"login": "ann"}, "reviews": [review], "commits": [commit]})
    {'changes_requested': 1, 'commits_after_first_review': 1}
    >>> review_counts({"user": {"login": "ann"}})
    {}
    """
    given = _items(pull_request.get("reviews"))
    if given is None:
        return {}
    author = _login(pull_request)
    reviews = [review for review in given if _counts(review, author)]
    states = [_text(review, [("state",)]) for review in reviews]
    times = [_time(review, _SUBMITTED) for review in reviews]
    counts: dict[str, int] = {}
    requested = sum(state is not None and state.upper() == "CHANGES_REQUESTED" for state in states)
    # A review without state or time is incomplete; it may have requested changes.
    if None not in states and (requested or None not in times):
        counts["changes_requested"] = requested
    commits = _items(pull_request.get("commits"))
    if commits is not None:
        after = _count_after(times, [_time(commit, _COMMITTED) for commit in commits])
        if after is not None:
            counts["commits_after_first_review"] = after
    return counts


def _count_after(reviews: Sequence[datetime | None], commits: Sequence[datetime | None]) -> int | None:
    """Number of commits after the first review; None if a missing time could change it."""
    reviewed = [time for time in reviews if time is not None]
    committed = [time for time in commits if time is not None]
    if len(reviewed) < len(reviews) or (reviewed and len(committed) < len(commits)):
        return None
    return sum(time > min(reviewed) for time in committed) if reviewed else 0


def _items(value: Any) -> list[dict[str, Any]] | None:
    """The objects of an array or of a GraphQL connection; None if some or all are missing."""
    if isinstance(value, dict):
        nodes = value.get("nodes")
        if nodes is None and isinstance(value.get("edges"), list):
            nodes = [edge.get("node") if isinstance(edge, dict) else None for edge in value["edges"]]
        page = value.get("pageInfo")
        more = isinstance(page, dict) and page.get("hasNextPage") is True
        total = value.get("totalCount")
        if more or not isinstance(nodes, list) or (total is not None and str(total) != str(len(nodes))):
            return None
        value = nodes
    return value if isinstance(value, list) and all(isinstance(item, dict) for item in value) else None


def _counts(review: dict[str, Any], author: str | None) -> bool:
    """Whether the review is submitted and by a person other than the author."""
    if (_text(review, [("state",)]) or "").upper() == "PENDING":
        return False
    who: dict[str, Any] = next((review[key] for key in ("user", "author") if isinstance(review.get(key), dict)), {})
    written = _text(review, _LOGINS) or ""
    bot = "Bot" in (who.get("type"), who.get("__typename")) or who.get("is_bot") is True
    if bot or written.endswith("[bot]") or written.startswith("app/"):
        return False
    return author is None or _login(review) != author


def _login(item: dict[str, Any]) -> str | None:
    """The normalised login of the author of ``item``: lower case, without ``app/`` or ``[bot]``."""
    written = _text(item, _LOGINS)
    return written.casefold().removeprefix("app/").removesuffix("[bot]") if written else None


def _text(item: dict[str, Any], paths: Iterable[Sequence[str]]) -> str | None:
    """The first text, not empty, at one of the paths."""
    for path in paths:
        value: Any = item
        for key in path:
            value = value.get(key) if isinstance(value, dict) else None
        if isinstance(value, str) and value:
            return value
    return None


def _time(item: dict[str, Any], paths: Iterable[Sequence[str]]) -> datetime | None:
    """The first time at one of the paths (UTC if it has no offset)."""
    for path in paths:
        try:
            time = datetime.fromisoformat(_text(item, [path]) or "")
        except ValueError:
            continue
        time = time if time.tzinfo is not None else time.replace(tzinfo=UTC)
        # Programs may write a time in the year 1 for a missing one.
        if _EARLIEST <= time <= datetime.now(UTC) + AHEAD:
            return time
    return None
