"""Text from files, made fit for one line: nothing in it steers a terminal, and it is short.

Names in a GGUF are whatever somebody wrote there: escape sequences, line breaks that forge other
lines, letters that turn the direction of what follows, megabytes. Whatever prints or draws such
text passes it through here; documents in JSON have escapes of their own.
"""

from __future__ import annotations

from unicodedata import category

LINE_CHARS = 1000
GAP = " ... "


def printable(text: str, limit: int | None = LINE_CHARS, keep: str = "") -> str:
    """At most `limit` characters that only stand for themselves; the middle of more is left out.

    Others are shown as Python writes them, a byte that is no UTF-8 as `\\xff`; but for those in
    `keep`.
    """
    short = _shortened(text, limit)
    if short.isprintable():
        return short
    return _shortened("".join(c if c in keep else _shown(c) for c in short), limit)


def _shortened(text: str, limit: int | None) -> str:
    """The beginning says what it is about, the end what to do."""
    if limit is None or len(text) <= limit:
        return text
    n_end = limit // 3
    return text[: limit - n_end - len(GAP)] + GAP + text[-n_end:]


def _shown(character: str) -> str:
    if character.isprintable() or category(character) == "Zs":  # spaces of all widths
        return character
    if "\udc80" <= character <= "\udcff":  # a byte that was decoded with surrogateescape
        return f"\\x{ord(character) - 0xDC00:02x}"
    return character.encode("unicode_escape").decode("ascii")
