"""Reading a file, or saying in one line why it cannot be read.

`-` is standard input. It and pipes, as a shell's `<(...)` makes them, can be read once only.
"""

from __future__ import annotations

import codecs
import contextlib
import sys
import tempfile
from collections.abc import Iterator
from enum import Enum
from pathlib import Path
from typing import BinaryIO

from ggprune.errors import DataError, GGPruneError
from ggprune.files.outputs import PendingFile, disk_errors

STDIN = Path("-")
BLOCK_BYTES = 1 << 20
UTF_16 = (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)


class TextErrors(str, Enum):
    """What is done about bytes of a text that are not UTF-8, named as Python names it."""

    STRICT = "strict"
    REPLACE = "replace"  # by U+FFFD, which llama.cpp's tokenizers see there, too


def name_of(path: Path) -> str:
    """As messages and results name it."""
    return "stdin" if path == STDIN else str(path)


def read_bytes(path: Path, n: int = -1) -> bytes:
    """All of the file, or its first `n` bytes. Raises DataError with the system's reason."""
    with _opened(path) as file:
        return file.read(n)


def read_utf8(path: Path, errors: TextErrors | None = None) -> str:
    """Line breaks stay as they are. Raises DataError if the file cannot be read or is not UTF-8.

    `errors`: what the user has said about these, None where nothing can be said.
    """
    data = read_bytes(path)
    try:
        return data.decode("utf-8", (errors or TextErrors.STRICT).value)
    except UnicodeDecodeError as e:
        raise DataError(f"{name_of(path)}: not a UTF-8 text: {_described(e, errors)}") from e


def _described(error: UnicodeDecodeError, errors: TextErrors | None) -> str:
    """What is wrong, and the way out."""
    if error.object.startswith(UTF_16):
        return "it begins as UTF-16 does: iconv -f UTF-16 -t UTF-8 converts it"
    way_out = "; --errors replace reads it all the same" if errors is not None else ""
    return _place(error) + way_out


def _place(error: UnicodeDecodeError) -> str:
    if error.reason == "unexpected end of data":
        return f"cut inside the character that begins at byte {error.start}, at its end"
    line = error.object.count(b"\n", 0, error.start) + 1
    return f"byte {error.start} is 0x{error.object[error.start]:02x} (line {line})"


def read_lines(path: Path, errors: TextErrors | None = None) -> list[str]:
    """Lines without their ends, LF or CRLF; as with llama.cpp's -f, one at the very end does not
    count. Raises DataError as `read_utf8`.
    """
    lines = read_utf8(path, errors).removesuffix("\n").split("\n")
    return [line.removesuffix("\r") for line in lines]


@contextlib.contextmanager
def seekable(path: Path) -> Iterator[Path]:
    """The file; of what can be read once only a nameless copy, which children can open as well.

    Errors raised in the block speak of `path`. Raises DataError if it cannot be read.
    """
    if path != STDIN and (path.is_file() or path.is_dir() or not path.exists()):
        yield path
        return
    beside = Path(tempfile.gettempdir()) / "ggprune-copy"
    with PendingFile(beside) as copy:
        with _opened(path) as source, open(copy.fd, "wb", closefd=False) as target:
            while block := source.read(BLOCK_BYTES):
                with disk_errors(beside):
                    target.write(block)
        try:
            yield copy.path
        except GGPruneError as e:
            raise type(e)(str(e).replace(str(copy.path), name_of(path))) from e


@contextlib.contextmanager
def _opened(path: Path) -> Iterator[BinaryIO]:
    try:
        if path == STDIN:
            yield sys.stdin.buffer
            return
        with path.open("rb") as file:
            yield file
    except OSError as e:
        raise DataError(f"{name_of(path)}: cannot be read: {e.strerror}") from e
    except ValueError as e:  # a NUL in the name
        raise DataError(f"{name_of(path)}: cannot be read: {e}") from e
