"""Hidden files and folders that live as long as the process that made them, and no longer.

Each is locked while it is in use. A process that is killed cannot clean up, but its locks go with
it: whoever next makes something hidden in the same folder removes what nobody locks. Age says
nothing about that, and is not asked.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import re
import secrets
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

FILE, FOLDER = ".part", ".tmp"
_HIDDEN = re.compile(r"\.ggprune-[0-9a-f]{16}(\.part|\.tmp)")


def hidden_name(kind: str) -> str:
    """A new one. Process numbers come again, in containers all the time: it is random."""
    return f".ggprune-{secrets.token_hex(8)}{kind}"


def lock(fd: int, *, without_locks: bool = True) -> bool:
    """Mark an open file or folder as in use, as long as `fd` is open. False if it is already.

    `without_locks` is what to say where the file system has none.
    """
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:
        return without_locks
    return True


def hidden_file(folder: Path) -> tuple[int, Path]:
    """A new locked file, open for reading and writing, and its name. Raises OSError."""
    remove_abandoned(folder)
    while True:
        path = folder / hidden_name(FILE)
        fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        if lock(fd) and os.fstat(fd).st_nlink:
            return fd, path
        os.close(fd)  # somebody took it for abandoned before it was locked


@contextlib.contextmanager
def passing_folder(parent: Path | None = None) -> Iterator[Path]:
    """A folder for the `with` block, by default where the system keeps temporary files.

    Raises OSError if there can be none.
    """
    parent = parent if parent is not None else Path(tempfile.gettempdir())
    remove_abandoned(parent)
    fd, path = _new_folder(parent)
    try:
        yield path
    finally:
        shutil.rmtree(path, ignore_errors=True)
        os.close(fd)


def _new_folder(parent: Path) -> tuple[int, Path]:
    while True:
        path = parent / hidden_name(FOLDER)
        path.mkdir(0o700)
        with contextlib.suppress(FileNotFoundError):  # taken for abandoned before it was locked
            fd = os.open(path, os.O_RDONLY)
            if lock(fd) and os.path.samestat(path.stat(), os.fstat(fd)):
                return fd, path
            os.close(fd)


def remove_abandoned(folder: Path) -> None:
    """Remove what killed processes of this user left in a folder."""
    with contextlib.suppress(OSError), os.scandir(folder) as entries:
        for entry in entries:
            if _HIDDEN.fullmatch(entry.name):
                with contextlib.suppress(OSError):
                    _remove_unlocked(Path(entry.path))


def _remove_unlocked(path: Path) -> None:
    fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW)
    try:
        stat = os.fstat(fd)
        if stat.st_uid != os.geteuid() or not lock(fd, without_locks=False):
            return
        if path.suffix == FOLDER:
            shutil.rmtree(path)
        else:
            path.unlink()
    finally:
        os.close(fd)
