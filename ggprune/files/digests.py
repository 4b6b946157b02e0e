"""Digests (BLAKE3) of parts of files, each part read once at the disk's speed and then remembered.

What is remembered holds for a device, inode, size and times of change (to Windows one of them is
that of creation). Times have steps: as git
does with its index, a file that changed moments ago is not remembered, for it could change again
within the same step. Knows nothing of what the parts are.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import time
from collections.abc import Callable, Sequence
from io import FileIO
from pathlib import Path

from blake3 import blake3

from ggprune.errors import FormatError, GGPruneError
from ggprune.files.cachefolder import user_cache
from ggprune.files.outputs import write_text

BLOCK_BYTES = 4 << 20
STEP_S = 2.0  # FAT's step, the coarsest one
FORMAT = 1

Part = tuple[int, int]  # offset and size in bytes
Heard = Callable[[int], object]  # is told of bytes that have been read

_DIGEST = re.compile("[0-9a-f]{64}")


def digests(path: Path, parts: Sequence[Part], heard: Heard) -> tuple[str, ...]:
    """Of every part, in hexadecimal digits. Raises FormatError if the file cannot be read.

    `heard` is told of all bytes; of those that are remembered, too.
    """
    try:
        return _digests(path, parts, heard)
    except OSError as e:
        raise FormatError(f"{path}: cannot be read: {e.strerror}") from e


def _digests(path: Path, parts: Sequence[Part], heard: Heard) -> tuple[str, ...]:
    with path.open("rb", buffering=0) as file:
        before = os.fstat(file.fileno())
        memory = _place(before, parts)
        known = _recalled(memory, len(parts))
        if known is not None:
            heard(sum(size for _, size in parts))
            return known
        made = tuple(_digest(path, file, part, heard) for part in parts)
        after = os.fstat(file.fileno())
    is_settled = max(after.st_mtime, after.st_ctime) < time.time() - STEP_S
    if memory is not None and is_settled and _place(after, parts) == memory:
        _remember(memory, made)
    return made


def remembered(path: Path, parts: Sequence[Part]) -> tuple[str, ...] | None:
    """What `digests` would give without reading anything; None where it would have to read."""
    return _recalled(_place(path.stat(), parts), len(parts))


def _digest(path: Path, file: FileIO, part: Part, heard: Heard) -> str:
    """Plain reads: unlike a map, they leave no pages in our memory."""
    (offset, left), digest = part, blake3(max_threads=blake3.AUTO)
    buffer = memoryview(bytearray(min(left, BLOCK_BYTES)))
    file.seek(offset)
    while left:
        n = file.readinto(buffer[: min(left, BLOCK_BYTES)])
        if not n:
            raise FormatError(f"{path}: became shorter while it was read")
        digest.update(buffer[:n])
        left -= n
        heard(n)
    return digest.hexdigest()


def _place(stat: os.stat_result, parts: Sequence[Part]) -> Path | None:
    """Where the digests of a file's parts are remembered, if there is a place for it, and if the
    file system tells its files apart.
    """
    folder = user_cache()
    if folder is None or not stat.st_ino:
        return None
    identity = (
        FORMAT, stat.st_dev, stat.st_ino, stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns, *parts
    )  # fmt: skip
    return folder / f"digests-{blake3(json.dumps(identity).encode()).hexdigest()[:32]}.txt"


def _recalled(memory: Path | None, n_part: int) -> tuple[str, ...] | None:
    """The last line is the digest of the others: what is damaged is made again."""
    try:
        lines = memory.read_text("ascii").split("\n") if memory is not None else []
    except (OSError, ValueError):
        return None
    *known, check = lines or [""]
    if len(known) != n_part or check != _check(known) or not all(map(_DIGEST.fullmatch, known)):
        return None
    return tuple(known)


def _remember(memory: Path, made: Sequence[str]) -> None:
    """A memory that cannot be written is none: the digests are right all the same."""
    with contextlib.suppress(OSError, GGPruneError):
        memory.parent.mkdir(parents=True, exist_ok=True)
        write_text(memory, "\n".join([*made, _check(made)]), force=True)


def _check(made: Sequence[str]) -> str:
    return blake3("\n".join(made).encode()).hexdigest()
