"""Writing files that appear under their names only when everything about them has been proved.

Whatever fails, there is nothing to clean up. What is written is for the jobs to say.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from ggprune.errors import LlamaAbortError
from ggprune.files.outputs import PendingFile, commit_all, disk_errors
from ggprune.files.passing import passing_folder
from ggprune.model import Model, open_model
from ggprune.runtime.isolate import isolated
from ggprune.runtime.session import check_loads
from ggprune.surgery import Layout


@dataclass(frozen=True)
class OutputFiles:
    """Files that were written, verified and published: one, or the shards of a split model."""

    paths: tuple[Path, ...]
    size_bytes: int
    notes: tuple[str, ...] = ()  # what a user must know about the result


@contextlib.contextmanager
def header_only(layout: Layout) -> Iterator[Model]:
    """The file as a quantizer's dry run needs it: all of the header, holes instead of the data."""
    with passing_folder() as folder:
        hollow = folder / "header-only.gguf"
        with disk_errors(hollow), hollow.open("wb") as file:
            file.write(layout.header)
            file.truncate(layout.size_bytes)
        yield open_model(hollow)


def publish(pending: Sequence[PendingFile], *, force: bool, check_load: bool) -> OutputFiles:
    """Let llama.cpp load the files and decode, then give them their names."""
    if check_load:
        with contextlib.ExitStack() as stack:
            for file in pending:
                stack.enter_context(file.named())
            _check_loads(pending)
    size_bytes = sum(file.path.stat().st_size for file in pending)
    commit_all(pending, force=force)
    return OutputFiles(tuple(file.target for file in pending), size_bytes)


def _check_loads(pending: Sequence[PendingFile]) -> None:
    try:
        isolated(check_loads, tuple(file.path for file in pending))
    except LlamaAbortError as e:
        raise LlamaAbortError(
            f"{pending[0].target}: not kept: every byte is as planned, but llama.cpp fails with "
            f"it: {e} (--no-verify skips this check)"
        ) from e
