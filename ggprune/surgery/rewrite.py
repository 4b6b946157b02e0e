"""Writes files as they were laid out: the new header, then the tensors' bytes, mostly untouched."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator, Sequence
from pathlib import Path

from ggprune.errors import FormatError
from ggprune.files.copy import Progress, copy_range, start_writeback
from ggprune.model import Model
from ggprune.surgery.contents import OutTensor
from ggprune.surgery.edits import edited_blocks, is_edited
from ggprune.surgery.layout import Layout, make_layout
from ggprune.surgery.plan import PrunePlan


def rewrite(model: Model, plan: PrunePlan, fd: int, progress: Progress | None = None) -> Layout:
    """Write the model without the plan's layers to the open, empty file `fd`.

    `progress` is told the number of bytes of every step. Raises OSError when the disk is full.
    """
    layout = make_layout(model, plan)
    write_header(layout, fd)
    for _ in write_tensors([layout], [fd], progress):
        pass
    return layout


def write_header(layout: Layout, fd: int) -> None:
    """Everything but the tensors' bytes; the padding between them is zeros that nobody writes."""
    os.ftruncate(fd, layout.size_bytes)
    os.pwrite(fd, layout.header, 0)


def write_tensors(
    layouts: Sequence[Layout], fds: Sequence[int], progress: Progress | None = None
) -> Iterator[OutTensor]:
    """Write tensor after tensor to the layouts' files; yields each when all its bytes are there."""
    with contextlib.ExitStack() as stack:
        sources: dict[Path | None, int] = {None: -1}
        for layout, fd in zip(layouts, fds, strict=True):
            for place in layout.placements:
                path = place.tensor.source.path if place.tensor.source else None
                if path is not None and path not in sources:
                    sources[path] = _open_source(path, stack)
                try:
                    _write_tensor(place.tensor, sources[path], fd, place.offset, progress)
                except EOFError as e:
                    raise FormatError(f"{path}: {e}") from e
                yield place.tensor


def _write_tensor(
    tensor: OutTensor, source: int, fd: int, offset: int, progress: Progress | None
) -> None:
    if tensor.source is not None and not is_edited(tensor):
        copy_range(source, tensor.source.offset, fd, offset, tensor.size_bytes, progress)
        return
    for block in edited_blocks(tensor, source):
        os.pwrite(fd, block, offset)
        start_writeback(fd, offset, len(block))
        offset += len(block)
        if progress is not None:
            progress(len(block))


def _open_source(path: Path, stack: contextlib.ExitStack) -> int:
    fd = os.open(path, os.O_RDONLY)
    stack.callback(os.close, fd)
    return fd
