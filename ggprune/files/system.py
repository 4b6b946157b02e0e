"""What systems offer differently, each call with another way beside it, chosen by what there is.

Nothing here or elsewhere asks for a system's name where it can ask for the thing itself: Windows
has no pread, opens files as text unless told otherwise and cannot open a folder; macOS has no
posix_fadvise; some file systems know no links. Locks are for `locks`.
"""

from __future__ import annotations

import contextlib
import os
import threading
from pathlib import Path

BINARY = getattr(os, "O_BINARY", 0)  # without it Windows translates line ends
NO_FOLLOW = getattr(os, "O_NOFOLLOW", 0)
STEP_BYTES = 1 << 30  # of one call: systems have limits near 2 GiB
_turn = threading.Lock()  # without pread: a descriptor has one position for all threads


def open_fd(path: Path, flags: int, mode: int = 0o600) -> int:
    """A descriptor for bytes, which children do not inherit. Raises OSError."""
    return os.open(path, flags | BINARY, mode)


def read_at(fd: int, n: int, offset: int) -> bytes:
    """`n` bytes of an open file, fewer if it ends before."""
    data = _read(fd, n, offset)
    if len(data) in (0, n):
        return data
    pieces = [data]
    while data and (left := n - sum(map(len, pieces))):
        data = _read(fd, left, offset + n - left)
        pieces.append(data)
    return b"".join(pieces)


def write_at(fd: int, data: bytes | memoryview, offset: int) -> None:
    """All of it: a disk that becomes full may take a part first and say nothing. Raises OSError."""
    view = memoryview(data).cast("B")
    done = 0
    while done < len(view):
        done += _write(fd, view[done : done + STEP_BYTES], offset + done)


def _read(fd: int, n: int, offset: int) -> bytes:
    n = min(n, STEP_BYTES)
    if hasattr(os, "pread"):
        return os.pread(fd, n, offset)
    with _turn:
        os.lseek(fd, offset, os.SEEK_SET)
        return os.read(fd, n)


def _write(fd: int, data: memoryview, offset: int) -> int:
    if hasattr(os, "pwrite"):
        return os.pwrite(fd, data, offset)
    with _turn:
        os.lseek(fd, offset, os.SEEK_SET)
        return os.write(fd, data)


def flush_folder(folder: Path) -> None:
    """Have the names in a folder be on the disk, where a folder can be flushed."""
    with contextlib.suppress(OSError):
        fd = open_fd(folder, os.O_RDONLY)
        try:
            os.fsync(fd)
        finally:
            os.close(fd)


def link_or_symlink(link: Path, target: Path) -> None:
    """Another name for a file, in another folder: symbolic, which Windows allows to few, or hard.

    Raises OSError if it can have neither.
    """
    try:
        link.symlink_to(target)
    except OSError:
        os.link(target, link)


def is_ours(fd: int) -> bool:
    """Does an open file belong to this user, as far as the system knows users by numbers?"""
    return not hasattr(os, "geteuid") or os.fstat(fd).st_uid == os.geteuid()


def umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask
