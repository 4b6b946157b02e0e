"""Makes of Linux a system that lacks what Windows lacks, in every process: make test-portable

    PYTHONPATH=tests/portable python -m pytest ...

Python imports this by its name before anything else, in child processes, too. Taking the features
away from `os` itself finds what a switch inside of ggprune could not: a call that nobody thought
of. What Windows does differently is there as well: nothing that is open or mapped is renamed,
replaced or removed, not even by a child of the process that has it open; folders cannot be opened
or symbolic links made; files are text unless opened as binary; locks are those of msvcrt.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import functools
import getpass  # noqa: F401 (as subprocess: takes the system for Windows where there is msvcrt)
import os
import signal
import subprocess  # noqa: F401
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

GONE = (
    "O_CLOEXEC", "O_DIRECTORY", "O_DIRECT", "O_NOFOLLOW", "O_PATH", "O_TMPFILE",
    "copy_file_range", "eventfd", "fchmod", "fchown", "fdatasync", "fork", "forkpty", "geteuid",
    "getloadavg", "memfd_create", "mkfifo", "nice", "pipe2", "posix_fadvise", "posix_fallocate",
    "pread", "preadv", "pwrite", "pwritev", "readv", "sched_getaffinity", "sched_setaffinity",
    "sendfile", "splice", "writev",
)  # fmt: skip
NO_MODULES = ("fcntl", "grp", "pty", "pwd", "termios", "tty")  # psutil needs `resource` here
SIGNALS = ("SIGHUP",)
BINARY = 1 << 30  # free on Linux
BY_BYTES = ("ggprune.files", "ggprune.healing", "ggprune.surgery", "ggprune.pipeline")
UNLINKS_OPEN_FILES = "tempfile"  # elsewhere it has another way

_open, _stat, _listdir, _flock = os.open, os.stat, os.listdir, fcntl.flock


def _caller() -> str:
    """The module that called the replaced function."""
    return str(sys._getframe(2).f_globals.get("__name__", ""))


def _held_files(process: int) -> Iterator[tuple[int, int]]:
    """Device and inode of what a process has open."""
    with contextlib.suppress(OSError):
        for fd in _listdir(f"/proc/{process}/fd"):
            with contextlib.suppress(OSError):
                stat = _stat(f"/proc/{process}/fd/{fd}")
                yield stat.st_dev, stat.st_ino


def _is_mapped(process: int, path: str) -> bool:
    with contextlib.suppress(OSError):
        maps = Path(f"/proc/{process}/maps").read_bytes().splitlines()
        return any(line.endswith(b" " + os.fsencode(path)) for line in maps)
    return False


def _check_free(path: Any) -> None:
    """Raises PermissionError if this process or its parent has the file open or mapped."""
    try:
        stat = os.lstat(path)
    except OSError:
        return
    where = os.path.realpath(os.fsdecode(path))
    for process in (os.getpid(), os.getppid()):
        is_open = (stat.st_dev, stat.st_ino) in set(_held_files(process))
        if is_open or _is_mapped(process, where):
            raise PermissionError(errno.EACCES, "the file is used by a process", where)


def _refusing(function: Callable[..., Any]) -> Callable[..., Any]:
    """The function where all paths that it is given must not be in use."""

    @functools.wraps(function)
    def refuse(*paths: Any, **options: Any) -> Any:
        if _caller() != UNLINKS_OPEN_FILES and not any(options.values()):
            for path in paths:
                _check_free(path)
        return function(*paths, **options)

    return refuse


def _opened(path: Any, flags: int, mode: int = 0o777, **options: Any) -> int:
    if Path(path).is_dir():
        raise PermissionError(errno.EACCES, "Permission denied", path)
    if _caller().startswith(BY_BYTES) and not flags & BINARY:
        raise AssertionError(f"{path!r} is opened as text: line ends would be translated")
    return _open(path, flags & ~BINARY, mode, **options)


def _symlink(source: Any, target: Any, *_: Any, **__: Any) -> None:
    raise OSError(errno.EPERM, "A required privilege is not held by the client", source, 0, target)


def _locking(fd: int, mode: int, n: int) -> None:
    """Of msvcrt: a region that no other descriptor can lock or read."""
    try:
        _flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as e:
        raise PermissionError(errno.EACCES, "Permission denied") from e


def _msvcrt() -> ModuleType:
    module: Any = ModuleType("msvcrt")
    module.LK_NBLCK, module.locking = 2, _locking
    return module  # type: ignore[no-any-return]


def hide() -> None:
    for name in GONE:
        if hasattr(os, name):
            delattr(os, name)
    for name in SIGNALS:
        delattr(signal, name)
    for name in ("rename", "replace", "unlink", "remove", "rmdir"):
        setattr(os, name, _refusing(getattr(os, name)))
    os.open, os.symlink = _opened, _symlink  # type: ignore[assignment]
    os.O_BINARY = BINARY  # type: ignore[attr-defined]
    sys.modules.update(dict.fromkeys(NO_MODULES))  # type: ignore[arg-type]
    sys.modules["msvcrt"] = _msvcrt()


hide()
