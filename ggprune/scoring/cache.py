"""Finished measurements on disk: a run that was killed continues, and more chunks extend it.

One SQLite file per model, text and settings; an entry is written when it is complete, so whatever
happens the file holds whole entries only.
"""

from __future__ import annotations

import hashlib
import json
import os
import sqlite3
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ggprune.errors import OutputError

FORMAT = 1
WAIT_S = 30.0  # for another process that writes

AnyArray = NDArray[Any]
Arrays = Mapping[str, AnyArray]


def default_folder() -> Path:
    """`$XDG_CACHE_HOME/ggprune`, or `~/.cache/ggprune`."""
    base = os.environ.get("XDG_CACHE_HOME")
    return (Path(base) if base else Path.home() / ".cache") / "ggprune"


class ScoreCache:
    """Arrays by chunk and name. `settings` is all that the numbers depend on."""

    def __init__(self, folder: Path, settings: Mapping[str, object]) -> None:
        """Raises OutputError if the folder cannot be written."""
        key = hashlib.sha256(json.dumps({"format": FORMAT, **settings}, sort_keys=True).encode())
        self.path = folder / f"scores-{key.hexdigest()[:32]}.sqlite"
        try:
            folder.mkdir(parents=True, exist_ok=True)
            self.connection = sqlite3.connect(self.path, timeout=WAIT_S)
            self.connection.execute(
                "CREATE TABLE IF NOT EXISTS entry "
                "(chunk INTEGER, name TEXT, data BLOB, PRIMARY KEY (chunk, name))"
            )
        except (OSError, sqlite3.Error) as e:
            raise OutputError(f"{self.path}: cannot be used: {e} (--no-cache does without)") from e

    def close(self) -> None:
        self.connection.close()

    def names(self, chunk: int) -> frozenset[str]:
        """Of all that was put for the chunk."""
        rows = self.connection.execute("SELECT name FROM entry WHERE chunk = ?", (chunk,))
        return frozenset(name for (name,) in rows)

    def get(self, chunk: int, name: str) -> dict[str, AnyArray] | None:
        """What was put, None if nothing was."""
        row = self.connection.execute(
            "SELECT data FROM entry WHERE chunk = ? AND name = ?", (chunk, name)
        ).fetchone()
        return None if row is None else _unpack(row[0])

    def put(self, chunk: int, name: str, arrays: Arrays) -> None:
        """Raises OutputError if it cannot be written."""
        try:
            with self.connection:
                self.connection.execute(
                    "INSERT OR REPLACE INTO entry VALUES (?, ?, ?)", (chunk, name, _pack(arrays))
                )
        except sqlite3.Error as e:
            raise OutputError(f"{self.path}: cannot be written: {e} (--no-cache)") from e


def _pack(arrays: Arrays) -> bytes:
    heads = {name: (a.dtype.str, a.shape) for name, a in arrays.items()}
    head = json.dumps(heads).encode()
    body = b"".join(np.ascontiguousarray(a).tobytes() for a in arrays.values())
    return len(head).to_bytes(4, "little") + head + body


def _unpack(raw: bytes) -> dict[str, AnyArray]:
    start = 4 + int.from_bytes(raw[:4], "little")
    arrays = {}
    for name, (dtype, shape) in json.loads(raw[4:start]).items():
        n = int(np.prod(shape))
        arrays[name] = np.frombuffer(raw, dtype, n, start).reshape(shape)
        start += n * np.dtype(dtype).itemsize
    return arrays
