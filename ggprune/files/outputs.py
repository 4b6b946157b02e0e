"""Outputs: may they be written, answered before any work; and files that appear when complete.

On Linux a pending file has no name at all until it is complete, flushed and wanted (O_TMPFILE), so
that even a killed process leaves nothing behind; elsewhere it is a `.part` file beside the target
that is removed on every way out.
"""

from __future__ import annotations

import contextlib
import errno
import os
import shutil
import tempfile
from collections.abc import Iterable, Iterator
from pathlib import Path

from ggprune.errors import GGPruneError, OutputError


@contextlib.contextmanager
def write_errors(target: Path) -> Iterator[None]:
    """Turn what the operating system says in the block into an OutputError."""
    try:
        yield
    except OSError as e:
        raise OutputError(f"{target}: cannot be written: {e.strerror}") from e


@contextlib.contextmanager
def disk_errors(target: Path) -> Iterator[None]:
    """As `write_errors`, around work that may fill the disk: says so, and that nothing was kept."""
    try:
        yield
    except OSError as e:
        what = "the disk is full" if e.errno == errno.ENOSPC else e.strerror
        raise OutputError(f"{target}: cannot be written: {what}; nothing was kept") from e


def check_output(target: Path, inputs: Iterable[Path], *, force: bool, size_bytes: int = 0) -> None:
    """Raises OutputError if `target` must not or cannot be written; touches nothing.

    `inputs` are files that must survive whatever `force` says.
    """
    folder = target.parent
    with write_errors(target):
        if target.is_dir():
            raise OutputError(f"{target}: is a folder, expected a file name")
        if not folder.is_dir():
            raise OutputError(f"{target}: there is no folder {folder}")
        if target.exists() and any(path.exists() and target.samefile(path) for path in inputs):
            raise OutputError(f"{target}: is the input itself; choose another output file")
        if target.exists() and not target.is_file():
            raise OutputError(f"{target}: is not a regular file; it would be replaced")
        if os.path.lexists(target) and not force:
            raise OutputError(f"{target}: exists already; use --force to replace it")
        if not os.access(folder, os.W_OK):
            raise OutputError(f"{target}: no permission to write in {folder}")
        if size_bytes > (free := shutil.disk_usage(folder).free):
            where = folder.resolve()
            raise OutputError(f"{target}: needs {size_bytes} bytes, {free} are free in {where}")


def check_outputs(
    targets: Iterable[Path | None], inputs: Iterable[Path | None], *, force: bool
) -> None:
    """`check_output` for all outputs of a command; none of them may be an input or another."""
    kept = list(filter(None, inputs))
    seen: set[Path] = set()
    for target in filter(None, targets):
        check_output(target, kept, force=force)
        place = target.parent.resolve() / target.name
        if place in seen:
            raise OutputError(f"{target}: is named as an output twice")
        seen.add(place)


class PendingFile:
    """A file being written for `target`. Gone at the end of the `with` block unless committed.

    `fd` is open for reading and writing; `path` opens the same file in this and other processes.
    """

    def __init__(self, target: Path) -> None:
        self.target = target
        self._name: Path | None = None  # only where files cannot be nameless
        self._committed = False
        try:
            self.fd = os.open(target.parent, os.O_TMPFILE | os.O_RDWR | os.O_CLOEXEC, 0o666)
            self.path = Path(f"/proc/{os.getpid()}/fd/{self.fd}")
            if not self.path.exists():
                os.close(self.fd)
                raise OSError("no /proc")
        except (AttributeError, OSError):
            with write_errors(target):
                self.fd, name = tempfile.mkstemp(".part", ".ggprune-", target.parent)
            self._name = self.path = Path(name)

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
