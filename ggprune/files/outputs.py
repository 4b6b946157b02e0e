"""May a command write its outputs? Answered before any work, touching nothing."""

from __future__ import annotations

import contextlib
import os
import shutil
from collections.abc import Iterable, Iterator
from pathlib import Path

from ggprune.errors import OutputError


@contextlib.contextmanager
def write_errors(target: Path) -> Iterator[None]:
    """Turn what the operating system says in the block into an OutputError."""
    try:
        yield
    except OSError as e:
        raise OutputError(f"{target}: cannot be written: {e.strerror}") from e


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
    kept = [path for path in inputs if path is not None]
    seen: dict[Path, Path] = {}
    for target in (path for path in targets if path is not None):
        check_output(target, kept, force=force)
        place = target.parent.resolve() / target.name
        if place in seen:
            raise OutputError(f"{target}: is named as an output twice")
        seen[place] = target
