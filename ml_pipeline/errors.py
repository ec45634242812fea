"""Errors that a command shows as one sentence, and the shortened traceback of the others."""

from __future__ import annotations

import traceback

LONGEST_TRACEBACK = 3000  # characters
INNERMOST_FRAMES = 8


class UserError(Exception):
    """Something that the person at the keyboard can put right; the message says what is wrong, where, and how."""


def short_traceback(error: BaseException) -> str:
    """The innermost frames of an exception and of its causes; the middle of a long one is left out.

    >>> short_traceback(ValueError("no rows"))
    'ValueError: no rows'
    """
    text = "".join(traceback.format_exception(error, limit=-INNERMOST_FRAMES)).rstrip()
    if len(text) <= LONGEST_TRACEBACK:
        return text
    half = LONGEST_TRACEBACK // 2
    return f"{text[:half]}\n...\n{text[-half:]}"
