"""Writes the pruned file: the new header, then the kept tensors' bytes, untouched."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path

from ggprune.errors import FormatError
from ggprune.model import Model
from ggprune.surgery.copy import Progress, copy_range
from ggprune.surgery.layout import Layout, Placement, make_layout
from ggprune.surgery.plan import PrunePlan


def rewrite(model: Model, plan: PrunePlan, fd: int, progress: Progress | None = None) -> Layout:
    """Write the model without the plan's layers to the open, empty file `fd`.

    `progress` is told the number of bytes of every step. Raises OSError when the disk is full.
    """
    layout = make_layout(model, plan)
    write_header(layout, fd)
    for _ in write_tensors(model, layout, fd, progress):
        pass
    return layout


def write_header(layout: Layout, fd: int) -> None:
    """Everything but the tensors' bytes; the padding between them is zeros that nobody writes."""
    os.ftruncate(fd, layout.size_bytes)
    os.pwrite(fd, layout.header, 0)


def write_tensors(
    model: Model, layout: Layout, fd: int, progress: Progress | None = None
) -> Iterator[Placement]:
    """Copy tensor after tensor; yields each when all its bytes are written."""
    with contextlib.ExitStack() as stack:
        sources = {file.path: _open_source(file.path, stack) for file in model.files}
        for place in layout.placements:
            tensor = place.tensor
            source = sources[tensor.path]
            try:
                copy_range(source, tensor.offset, fd, place.offset, tensor.size_bytes, progress)
            except EOFError as e:
                raise FormatError(f"{tensor.path}: {e}") from e
            yield place


def _open_source(path: Path, stack: contextlib.ExitStack) -> int:
    fd = os.open(path, os.O_RDONLY)
    stack.callback(os.close, fd)
    return fd
