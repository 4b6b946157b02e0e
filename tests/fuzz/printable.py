"""What a terminal may be given: no control characters, no line without end."""

from __future__ import annotations

import re

MAX_LINE = 20_000  # characters
_CONTROL = re.compile("[\x00-\x09\x0b-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069]")


def text_fault(what: str, shown: str) -> str | None:
    """What is wrong with a text; an error is one line."""
    if _CONTROL.search(shown) or (what == "error" and "\n" in shown):
        return "a control character"
    if max(map(len, shown.split("\n")), default=0) > MAX_LINE:
        return f"a line of more than {MAX_LINE} characters"
    return None
