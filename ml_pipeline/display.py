"""Escapes text that comes from data, for a terminal, Markdown, a chat message or a command line.

A tenant's id, a category, a reason or an error can contain any characters. These functions make such text plain, so
that it can neither break nor imitate the text around it.
"""

from __future__ import annotations

import re
import shlex
import unicodedata

# Control and format characters and line separators, which move the cursor, or hide or reverse printed text.
_HIDING = {"Cc", "Cf", "Zl", "Zp", "Cs"}
_SHOWN_AS_IT_IS = {"\u200c", "\u200d", "\u00ad"}  # joiners and hyphens of words
_PUNCTUATION = re.compile(r"([\\`*_{}\[\]()#|~])")
_EVERYBODY = re.compile(r"@(?=(?:channel|here|all|everyone)\b)", re.IGNORECASE)


def printable(text: object, *, lines: bool = False) -> str:
    r"""The text with escaped control characters, as one line; ``lines`` keeps line feeds and tabs.

    >>> printable("\x1b[31mred\x1b[0m\nacme"), printable("a\nb\x00", lines=True)
    ('\\x1b[31mred\\x1b[0m\\nacme', 'a\nb\\x00')
    """
    given = str(text)
    if given.isprintable():
        return given
    kept = _SHOWN_AS_IT_IS | ({"\n", "\t"} if lines else set())
    return "".join(
        one.encode("unicode_escape").decode() if one not in kept and unicodedata.category(one) in _HIDING else one
        for one in given
    )


def markdown(text: object) -> str:
    r"""The text as one line of Markdown without any markup, HTML, link or table cell.

    >>> markdown("a|b <img src=x> [here](http://evil)")
    'a\\|b &lt;img src=x&gt; \\[here\\]\\(http:\u200b//evil\\)'
    """
    escaped = printable(text).replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    # Viewers turn bare addresses into links; a zero-width space prevents that.
    unlinked = escaped.replace("://", ":\u200b//").replace("www.", "www\u200b.")
    return _PUNCTUATION.sub(r"\\\1", unlinked)


def code(text: object) -> str:
    """The text as a code span of Markdown, which also works inside a table.

    >>> code("a`b"), code("plain"), code("a|b")
    ('`` a`b ``', '`plain`', '`a\\\\|b`')
    """
    shown = printable(text).replace("|", "\\|") or " "
    longest = max((len(run) for run in re.findall("`+", shown)), default=0)
    fence = "`" * (longest + 1)
    return f"{fence} {shown} {fence}" if longest else f"{fence}{shown}{fence}"


def message(text: object) -> str:
    """The text for a chat message, without links or mentions of Slack (``<!channel>``) and Mattermost (``@all``).

    >>> message("<!channel> & <@U1>")
    '&lt;!channel&gt; &amp; &lt;@U1&gt;'
    """
    shown = printable(text, lines=True).replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    return _EVERYBODY.sub("@\u200b", shown)


def command(*words: str) -> str:
    r"""A command line for a shell, with its words quoted where necessary.

    >>> command("ml-pipeline", "rollback", "--tenant", "o'brien; rm -rf /")
    'ml-pipeline rollback --tenant \'o\'"\'"\'brien; rm -rf /\''
    """
    return " ".join(_word(word) for word in words)


def _word(word: str) -> str:
    if printable(word) == word:
        return shlex.quote(word)
    quoted = word.replace("\\", "\\\\").replace("'", "\\'")
    return "$'" + "".join(one if printable(one) == one else f"\\U{ord(one):08x}" for one in quoted) + "'"
