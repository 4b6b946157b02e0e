"""Hidden files and folders that live as long as the process that made them, and no longer.

Each is held while it is in use. A process that is killed cannot clean up, but its locks go with
it: whoever next makes something hidden in the same folder removes what nobody holds. Age says
nothing about that, and is not asked.
"""

from __future__ import annotations

import contextlib
import os
import re
import secrets
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

from ggprune.files.locks import BESIDE, Hold, can_be_abandoned, hold
from ggprune.files.system import is_ours, open_fd

FILE, FOLDER = ".part", ".tmp"
_HIDDEN = re.compile(r"\.ggprune-[0-9a-f]{16}\.(part|tmp)(\.lock)?")


def hidden_name(kind: str) -> str:
    """A new one. Process numbers come again, in containers all the time: it is random."""
    return f".ggprune-{secrets.token_hex(8)}{kind}"


def hidden_file(folder: Path) -> tuple[int, Hold]:
    """A new file that is held, open for reading and writing. Raises OSError."""
    remove_abandoned(folder)
    while True:
        path = folder / hidden_name(FILE)
        fd = open_fd(path, os.O_RDWR | os.O_CREAT | os.O_EXCL)
        with contextlib.suppress(BlockingIOError, FileNotFoundError):
            return fd, hold(path)
        os.close(fd)  # somebody took it for abandoned before it was held


@contextlib.contextmanager
def passing_folder(parent: Path | None = None) -> Iterator[Path]:
    """A folder for the `with` block, by default where the system keeps temporary files.

    Raises OSError if there can be none.
    """
    parent = parent if parent is not None else Path(tempfile.gettempdir())
    remove_abandoned(parent)
    held = _new_folder(parent)
    try:
        yield held.path
    finally:
        shutil.rmtree(held.path, ignore_errors=True)
        held.release()


def _new_folder(parent: Path) -> Hold:
    while True:
        path = parent / hidden_name(FOLDER)
        path.mkdir(0o700)
        with contextlib.suppress(BlockingIOError, FileNotFoundError):
            return hold(path)


def remove_abandoned(folder: Path) -> None:
    """Remove what killed processes of this user left in a folder."""
    with contextlib.suppress(OSError), os.scandir(folder) as entries:
        for entry in entries:
            if _HIDDEN.fullmatch(entry.name) and can_be_abandoned(entry.name):
                remove_unheld(Path(entry.path.removesuffix(BESIDE)))


def remove_unheld(path: Path) -> None:
    """Remove a file or folder of this user, unless somebody holds it or that cannot be known."""
    with contextlib.suppress(OSError):
        held = hold(path)
        try:
            if not held.is_locked or not is_ours(held.fd):
                return
            if path.is_dir() and not path.is_symlink():
                shutil.rmtree(path)
            else:
                path.unlink(missing_ok=True)
        finally:
            held.release()
