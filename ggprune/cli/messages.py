"""What is said on stderr beside the results: an error, a note, how far a part of the job is; one
line each, always short.
"""

from __future__ import annotations

import contextlib
import sys

from ggprune.files.printable import printable


def say_error(message: str) -> None:
    _say("error", message)


def say_note(message: str) -> None:
    """Something to know about a result that is there all the same."""
    _say("note", message)


def say_progress(part: str, text: str) -> None:
    """What is ahead of a part, or how far it is. If nobody reads that any more, the job goes on."""
    with contextlib.suppress(OSError, ValueError):
        _say(part, text)


def _say(kind: str, message: str) -> None:
    print(f"ggprune: {kind}: {printable(' '.join(message.split()))}", file=sys.stderr, flush=True)
