"""Reading a file, or saying in one line why it cannot be read."""

from __future__ import annotations

from pathlib import Path

from ggprune.errors import DataError


def read_bytes(path: Path, n: int = -1) -> bytes:
    """All of the file, or its first `n` bytes. Raises DataError with the system's reason."""
    try:
        with path.open("rb") as file:
            return file.read(n)
    except OSError as e:
        raise DataError(f"{path}: cannot be read: {e.strerror}") from e


def read_utf8(path: Path) -> str:
    """Raises DataError if the file cannot be read or is not UTF-8. Line breaks stay as they are."""
    try:
        return read_bytes(path).decode("utf-8")
    except UnicodeDecodeError as e:
        raise DataError(f"{path}: not a UTF-8 text (byte {e.start})") from e
