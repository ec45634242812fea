"""``UserError``, which commands show without a traceback, and shortened tracebacks of other errors."""

from __future__ import annotations

import traceback

LONGEST_TRACEBACK = 3000  # characters
INNERMOST_FRAMES = 8


class UserError(Exception):
    """An error that the user can fix; the message says what is wrong, where, and what to do."""


def short_traceback(error: BaseException) -> str:
    """The innermost frames of an exception and its causes; the middle of a long text is left out.

    >>> short_traceback(ValueError("no rows"))
    'ValueError: no rows'
    """
    text = "".join(traceback.format_exception(error, limit=-INNERMOST_FRAMES)).rstrip()
    if len(text) <= LONGEST_TRACEBACK:
        return text
    half = LONGEST_TRACEBACK // 2
    return f"{text[:half]}\n...\n{text[-half:]}"
