"""A file that appears under its name only when it is complete, flushed and wanted.

On Linux it has no name at all until then (O_TMPFILE), so that even a killed process leaves nothing
behind; elsewhere it is a `.part` file beside the target that is removed on every way out.
"""

from __future__ import annotations

import contextlib
import errno
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

from ggprune.errors import GGPruneError, OutputError
from ggprune.files.outputs import check_output, write_errors


class PendingFile:
    """A file being written for `target`. Gone at the end of the `with` block unless committed.

    `fd` is open for reading and writing; `path` opens the same file in this and other processes.
    """

    def __init__(self, target: Path) -> None:
        self.target = target
        self._name: Path | None = None  # only where files cannot be nameless
        self._committed = False
        try:
            self.fd = self._open_nameless()
            self.path = Path(f"/proc/{os.getpid()}/fd/{self.fd}")
        except (AttributeError, OSError):
            with write_errors(target):
                self.fd, name = tempfile.mkstemp(".part", ".ggprune-", target.parent)
            self._name = self.path = Path(name)

    def _open_nameless(self) -> int:
        fd = os.open(self.target.parent, os.O_TMPFILE | os.O_RDWR | os.O_CLOEXEC, 0o666)
        if not Path(f"/proc/self/fd/{fd}").exists():
            os.close(fd)
            raise OSError("no /proc")
        return fd

    def __enter__(self) -> PendingFile:
        return self

    def __exit__(self, *_: object) -> None:
        os.close(self.fd)
        if self._name is not None and not self._committed:
            self._name.unlink(missing_ok=True)

    @contextlib.contextmanager
    def named(self) -> Iterator[None]:
        """Errors raised in the block speak of the target, not of the file's temporary path."""
        try:
            yield
        except GGPruneError as e:
            raise type(e)(str(e).replace(str(self.path), str(self.target))) from e

    def commit(self, *, force: bool) -> None:
        """Flush, then give the file its name in one step.

        Raises OutputError if the name was taken meanwhile and `force` is not set.
        """
        os.fsync(self.fd)
        folder = os.open(self.target.parent, os.O_RDONLY)
        try:
            self._publish(folder, force=force)
            self._committed = True
            with contextlib.suppress(OSError):  # some file systems cannot flush a folder
                os.fsync(folder)
        except FileExistsError as e:
            raise OutputError(f"{self.target}: appeared meanwhile; nothing was replaced") from e
        finally:
            os.close(folder)

    def _publish(self, folder: int, *, force: bool) -> None:
        if self._name is not None:
            if not force and os.path.lexists(self.target):
                raise FileExistsError
            mask = os.umask(0)
            os.umask(mask)
            self._name.chmod(0o666 & ~mask)
            self._name.replace(self.target)
        elif force and os.path.lexists(self.target):
            beside = f".ggprune-{os.getpid()}-{self.fd}.part"
            os.link(self.path, beside, dst_dir_fd=folder)
            try:
                os.replace(beside, self.target.name, src_dir_fd=folder, dst_dir_fd=folder)
            except OSError:
                os.unlink(beside, dir_fd=folder)
                raise
        else:
            os.link(self.path, self.target.name, dst_dir_fd=folder)


def write_text(target: Path, text: str, *, force: bool) -> None:
    """Write a small file the same way. Raises OutputError if it cannot be written."""
    write_bytes(target, text.encode("utf-8"), force=force)


def write_bytes(target: Path, data: bytes, *, force: bool) -> None:
    """Raises OutputError if the file cannot be written."""
    check_output(target, (), force=force)
    with write_errors(target), PendingFile(target) as pending:
        with os.fdopen(os.dup(pending.fd), "wb") as file:
            file.write(data)
        pending.commit(force=force)


@contextlib.contextmanager
def disk_errors(target: Path) -> Iterator[None]:
    """Turn what the operating system says while writing into an OutputError."""
    try:
        yield
    except OSError as e:
        what = "the disk is full" if e.errno == errno.ENOSPC else e.strerror
        raise OutputError(f"{target}: cannot be written: {what}; nothing was kept") from e
