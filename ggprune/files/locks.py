"""Locks on files and folders that go with the process that holds them, whatever ends it.

Where the system can lock what is open without disturbing those who read it (flock), the file or
folder itself is locked. Where a lock keeps others from reading (msvcrt), an empty file beside it
is. Where there is neither, nothing is locked, and nothing ever counts as abandoned.
"""

from __future__ import annotations

import contextlib
import errno
import os
from pathlib import Path
from typing import Any

from ggprune.files.system import NO_FOLLOW, open_fd

_fcntl: Any = None  # where the system has none
_msvcrt: Any = None
with contextlib.suppress(ImportError):
    import fcntl as _fcntl
with contextlib.suppress(ImportError):
    import msvcrt as _msvcrt

BESIDE = ".lock"  # behind the name of what the file speaks of
TAKEN = {errno.EACCES, errno.EAGAIN, errno.EDEADLK}
IN_PLACE = _fcntl is not None  # the file itself is locked, not one beside it


class Hold:
    """A file or folder is in use, until it is released or the process ends."""

    def __init__(self, path: Path, fd: int, *, is_locked: bool) -> None:
        """`fd` has the lock, if the system could give one."""
        self.path, self.fd, self.is_locked = path, fd, is_locked

    def release(self) -> None:
        """A file beside goes if there is nothing left that it could speak of."""
        os.close(self.fd)
        if not IN_PLACE and not os.path.lexists(self.path):
            with contextlib.suppress(OSError):  # another process looks at it, and will remove it
                _beside(self.path).unlink(missing_ok=True)


def hold(path: Path) -> Hold:
    """Take a file or folder. Raises BlockingIOError if it is taken, OSError if it is gone."""
    if IN_PLACE:
        fd = open_fd(path, os.O_RDONLY | NO_FOLLOW)
    else:
        fd = open_fd(_beside(path), os.O_RDWR | os.O_CREAT)
    try:
        is_locked = _lock(fd)
        if IN_PLACE and not os.path.samestat(path.stat(), os.fstat(fd)):
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), str(path))
    except BaseException:
        os.close(fd)
        raise
    return Hold(path, fd, is_locked=is_locked)


def hold_nameless(fd: int) -> Hold:
    """Take a file that has no name yet, so that it is held when it gets one."""
    return Hold(Path(), os.dup(fd), is_locked=_lock(fd))


def can_be_abandoned(name: str) -> bool:
    """May what has this name be looked at for whether somebody holds it?

    Where locks lie beside, only what has one: others may hold what has none in ways of their own.
    """
    return name.endswith(BESIDE) != IN_PLACE


def _beside(path: Path) -> Path:
    return path.with_name(path.name + BESIDE)


def _lock(fd: int) -> bool:
    """False where the file system has no locks. Raises BlockingIOError if somebody has it."""
    try:
        if _fcntl is not None:
            _fcntl.flock(fd, _fcntl.LOCK_EX | _fcntl.LOCK_NB)
        elif _msvcrt is not None:
            _msvcrt.locking(fd, _msvcrt.LK_NBLCK, 1)
        else:
            return False
    except OSError as e:
        if e.errno in TAKEN:
            raise BlockingIOError(e.errno, e.strerror) from e
        return False
    return True
