"""What is said on stderr beside the results: an error or a note, one line each, always short."""

from __future__ import annotations

import sys

from ggprune.files.printable import printable


def say_error(message: str) -> None:
    _say("error", message)


def say_note(message: str) -> None:
    """Something to know about a result that is there all the same."""
    _say("note", message)


def _say(kind: str, message: str) -> None:
    print(f"ggprune: {kind}: {printable(' '.join(message.split()))}", file=sys.stderr)
