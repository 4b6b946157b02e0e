"""Outputs: may they be written, answered before any work; and files that appear when complete.

On Linux a pending file has no name at all until it is complete, flushed and wanted (O_TMPFILE), so
that even a killed process leaves nothing behind; elsewhere it is a hidden file beside the target
that is removed on every way out, and after a kill by the next run.
"""

from __future__ import annotations

import contextlib
import errno
import os
import shutil
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from ggprune.errors import GGPruneError, OutputError
from ggprune.files.locks import Hold, hold, hold_nameless
from ggprune.files.passing import FILE, hidden_file, hidden_name, remove_abandoned
from ggprune.files.system import flush_folder, umask, write_at


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
        place = target.parent.resolve() / target.name.casefold()  # to some systems they are one
        if place in seen:
            raise OutputError(f"{target}: is named as an output twice")
        seen.add(place)


class PendingFile:
    """A file being written for `target`. Gone at the end of the `with` block unless committed.

    `fd` is open for reading and writing; `path` opens the same file in this and other processes.
    """

    def __init__(self, target: Path) -> None:
        self.target = target
        self._name: Path | None = None  # of its own: where it must have one, and once it is staged
        self._committed = False
        try:
            remove_abandoned(target.parent)
            self.fd, self.path = _nameless_file(target.parent)
            self._hold = hold_nameless(self.fd)
        except (AttributeError, OSError):
            with write_errors(target):
                self.fd, self._hold = hidden_file(target.parent)
                self.path = self._name = self._hold.path
                self.path.chmod(0o666 & ~umask())

    def __enter__(self) -> PendingFile:
        return self

    def __exit__(self, *_: object) -> None:
        self._close()
        if self._name is not None and not self._committed:
            with contextlib.suppress(OSError):  # the next run removes what nobody holds
                self._name.unlink(missing_ok=True)
        self._hold.release()

    def _close(self) -> None:
        if self.fd >= 0:
            os.close(self.fd)
        self.fd = -1

    @contextlib.contextmanager
    def named(self) -> Iterator[None]:
        """Errors raised in the block speak of the target, not of the file's temporary path."""
        try:
            yield
        except GGPruneError as e:
            raise type(e)(str(e).replace(str(self.path), str(self.target))) from e

    def commit(self, *, force: bool) -> None:
        """Flush, then give the file its name in one step. Raises as `commit_all`."""
        commit_all([self], force=force)

    def stage(self) -> None:
        """Give it a hidden name beside its target, so that nothing but renaming is left to do."""
        if self._name is not None:
            return
        name = hidden_name(FILE)
        folder = os.open(self.target.parent, os.O_RDONLY)
        try:  # relative to a folder, because only then the link in /proc is followed
            os.link(self.path, name, dst_dir_fd=folder)
        finally:
            os.close(folder)
        self._name = self.target.with_name(name)

    def publish(self, *, force: bool) -> None:
        """Give the staged file its name. Raises FileExistsError if it is taken without `force`.

        Closes it before: Windows renames no open file. It is held until it has its name.
        """
        assert self._name is not None
        self._close()
        if force or not _linked(self._name, self.target):
            self._name.replace(self.target)
        else:
            self._name.unlink()
        self._committed = True


def _nameless_file(folder: Path) -> tuple[int, Path]:
    """A file without a name, and what opens it meanwhile. Raises AttributeError or OSError where
    there can be none.
    """
    fd = os.open(folder, os.O_TMPFILE | os.O_RDWR, 0o666)
    path = Path(f"/proc/{os.getpid()}/fd/{fd}")
    if not path.exists():
        os.close(fd)
        raise OSError("no /proc")
    return fd, path


def _linked(path: Path, target: Path) -> bool:
    """Give a file a second name; False where files have but one, and `target` is still free."""
    try:
        os.link(path, target)
    except FileExistsError:
        raise
    except OSError:
        if os.path.lexists(target):
            raise FileExistsError from None
        return False
    return True


def commit_all(files: Sequence[PendingFile], *, force: bool) -> None:
    """All files get their names or none does, and what had these names before is put back.

    All are flushed before the first one gets its name; then nothing is left to do but renaming,
    from the last one to the first. Only a kill between two renames leaves new files beside old
    ones: what is in them must tell that they do not belong together.
    Raises OutputError if a name was taken meanwhile and `force` is not set, OSError.
    """
    for file in files:
        os.fsync(file.fd)
    for file in files:
        file.stage()
    kept: list[_Before] = []
    try:
        for file in reversed(files):
            if len(files) > 1:
                kept.append(_Before(file.target))
            try:
                file.publish(force=force)
            except FileExistsError as e:
                raise OutputError(f"{file.target}: appeared meanwhile; nothing was replaced") from e
    except BaseException:
        for before in reversed(kept):
            before.put_back()
        raise
    finally:
        for before in kept:
            before.close()
    for folder in {file.target.parent for file in files}:
        flush_folder(folder)


class _Before:
    """What has a name, kept under a hidden one until it is decided who gets the name."""

    def __init__(self, target: Path) -> None:
        self.target = target
        self.kept: Path | None = None
        self._hold: Hold | None = None
        if not os.path.lexists(target):
            return
        self.kept = target.with_name(hidden_name(FILE))
        if not _linked(target, self.kept):
            target.rename(self.kept)
        with contextlib.suppress(OSError):
            self._hold = hold(self.kept)

    def put_back(self) -> None:
        """Errors must not keep the others from being put back."""
        with contextlib.suppress(OSError):
            if self.kept is not None:
                self.kept.replace(self.target)
            else:
                self.target.unlink(missing_ok=True)

    def close(self) -> None:
        """The hidden name goes, if it is still there; should that fail, with the next run."""
        with contextlib.suppress(OSError):
            if self.kept is not None:
                self.kept.unlink(missing_ok=True)
        if self._hold is not None:
            self._hold.release()


def write_text(target: Path, text: str, *, force: bool) -> None:
    """Write a small file the same way. Raises OutputError if it cannot be written."""
    write_bytes(target, text.encode("utf-8"), force=force)


def write_bytes(target: Path, data: bytes, *, force: bool) -> None:
    """Raises OutputError if the file cannot be written."""
    check_output(target, (), force=force)
    with write_errors(target), PendingFile(target) as pending:
        write_at(pending.fd, data, 0)
        pending.commit(force=force)
