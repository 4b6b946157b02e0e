"""Bytes from one file to another, by the kernel where it can: no byte passes through Python.

copy_file_range shares the blocks on file systems that can and copies in the page cache elsewhere;
sendfile serves where the two files are on different file systems; read and write always work.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator

from ggprune.files.system import read_at, write_at

STEP_BYTES = 64 << 20  # a progress report and a chance for Ctrl-C this often
BUFFER_BYTES = 4 << 20
UNSUPPORTED = {
    errno.EXDEV, errno.ENOSYS, errno.EINVAL, errno.EOPNOTSUPP, errno.EBADF, errno.EPERM,
    errno.ETXTBSY, errno.ENOTSOCK,
}  # fmt: skip


def copy_bytes(src: int, src_offset: int, dst: int, dst_offset: int, n: int) -> int:
    """Copy up to `n` bytes between two file descriptors; returns how many (0: source ended)."""
    for method in _METHODS:
        try:
            return method(src, src_offset, dst, dst_offset, min(n, STEP_BYTES))
        except OSError as e:
            if e.errno not in UNSUPPORTED:
                raise
    data = read_at(src, min(n, BUFFER_BYTES), src_offset)
    write_at(dst, data, dst_offset)
    return len(data)


def copy_range(src: int, src_offset: int, dst: int, dst_offset: int, n: int) -> Iterator[int]:
    """Copy exactly `n` bytes, step by step; yields the bytes of each step behind it.

    Raises OSError if that is impossible, EOFError if `src` is short.
    """
    done = 0
    while done < n:
        step = copy_bytes(src, src_offset + done, dst, dst_offset + done, n - done)
        if step == 0:
            raise EOFError("the source became shorter while it was copied")
        start_writeback(dst, dst_offset + done, step)
        done += step
        yield step


def start_writeback(fd: int, offset: int, n: int) -> None:
    """Have the disk begin with what is written while the next bytes are copied.

    Linux starts to write dirty pages that are said not to be needed; it does not drop them.
    """
    if hasattr(os, "posix_fadvise"):
        os.posix_fadvise(fd, offset, n, os.POSIX_FADV_DONTNEED)


def _copy_file_range(src: int, src_offset: int, dst: int, dst_offset: int, n: int) -> int:
    return os.copy_file_range(src, dst, n, src_offset, dst_offset)


def _sendfile(src: int, src_offset: int, dst: int, dst_offset: int, n: int) -> int:
    os.lseek(dst, dst_offset, os.SEEK_SET)
    return os.sendfile(dst, src, src_offset, n)


# Those that the system has, by the name of what they call.
_METHODS = tuple(m for m in (_copy_file_range, _sendfile) if hasattr(os, m.__name__[1:]))
