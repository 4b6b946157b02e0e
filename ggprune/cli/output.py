"""Results on stdout; nothing is put into words here."""

from __future__ import annotations

import contextlib
import shutil
import sys
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TypeVar

from ggprune.cli.options import Showing
from ggprune.cli.streams import stdout_encoding
from ggprune.files.documents import to_text
from ggprune.report.blocks import Block, terminal
from ggprune.report.narrow import narrowed

T = TypeVar("T")


def deliver(
    shown: Callable[[], object], *files: tuple[Path | None, Callable[[Path], object]]
) -> None:
    """Write the result of long work to files, and show it, whatever becomes of the files.

    Raises the error of the last one that fails.
    """
    with contextlib.ExitStack() as stack:
        stack.callback(shown)
        for path, write in reversed(files):
            if path is not None:
                stack.callback(write, path)


def show(result: T, blocks: Callable[[T], Iterable[Block]], showing: Showing) -> None:
    """One JSON document, or what there is to say about the result.

    A terminal gets no longer lines than it can show; files and pipes get everything.
    """
    if showing.as_json:
        text = to_text(result, stdout_encoding())
    elif showing.wide or not sys.stdout.isatty():
        text = terminal(blocks(result))
    else:
        text = terminal(narrowed(blocks(result), shutil.get_terminal_size().columns))
    print(text, end="")
