"""Rows that are measured once, in an SQLite file per model, text and settings.

An entry is written when it is complete and read only if its checksum is right, so a run that was
killed continues, and what a power cut damaged is measured again. A cache is a help: where it cannot
be used, that is said once and the work goes on without.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import math
import sqlite3
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from blake3 import blake3
from numpy.typing import NDArray

FORMAT = 3
WAIT_S = 30.0  # for another process that writes
CHECK_BYTES = 16  # of the checksum in front of an entry

AnyArray = NDArray[Any]
Arrays = Mapping[str, AnyArray]


class Cache(Protocol):
    """What keeps rows."""

    def get(self, chunk: int, names: Iterable[str]) -> Mapping[str, Arrays]: ...

    def names(self, chunk: int) -> frozenset[str]: ...

    def put(self, chunk: int, name: str, arrays: Arrays) -> None: ...


class ScoreCache:
    """Arrays by chunk and name. `settings` is all that the numbers depend on."""

    def __init__(
        self, folder: Path, settings: Mapping[str, object], note: Callable[[str], object]
    ) -> None:
        """`note` is told, once, what is wrong with the file, if anything is."""
        key = hashlib.sha256(json.dumps({"format": FORMAT, **settings}, sort_keys=True).encode())
        self.path = folder / f"scores-{key.hexdigest()[:32]}.sqlite"
        self._note, self._said = note, False
        self._connection: sqlite3.Connection | None = None
        with self._trouble():
            folder.mkdir(parents=True, exist_ok=True)
            self._open()

    def close(self) -> None:
        if self._connection is not None:
            self._connection.close()
        self._connection = None

    def get(self, chunk: int, names: Iterable[str]) -> dict[str, dict[str, AnyArray]]:
        """Those of the entries that are there and undamaged."""
        found: dict[str, dict[str, AnyArray]] = {}
        for name in names:
            raw = self._read(chunk, name)
            if raw is None:
                continue
            if raw[:CHECK_BYTES] == _check(chunk, name, raw[CHECK_BYTES:]):
                found[name] = _unpack(raw[CHECK_BYTES:])
            else:
                self._say("has damaged entries; they are measured again")
        return found

    def put(self, chunk: int, name: str, arrays: Arrays) -> None:
        data = _pack(arrays)
        with self._trouble():
            if self._connection is not None:
                with self._connection:
                    self._connection.execute(
                        "INSERT OR REPLACE INTO entry VALUES (?, ?, ?)",
                        (chunk, name, _check(chunk, name, data) + data),
                    )

    def names(self, chunk: int) -> frozenset[str]:
        """Of the entries of a chunk; one of them may turn out to be damaged."""
        with self._trouble():
            if self._connection is not None:
                select = "SELECT name FROM entry WHERE chunk = ?"
                rows = self._connection.execute(select, (chunk,)).fetchall()
                return frozenset(row[0] for row in rows)
        return frozenset()

    def _read(self, chunk: int, name: str) -> bytes | None:
        with self._trouble():
            if self._connection is not None:
                row = self._connection.execute(
                    "SELECT data FROM entry WHERE chunk = ? AND name = ?", (chunk, name)
                ).fetchone()
                return row[0] if row is not None and isinstance(row[0], bytes) else None
        return None

    def _open(self) -> None:
        self._connection = sqlite3.connect(self.path, timeout=WAIT_S)
        self._connection.execute(
            "CREATE TABLE IF NOT EXISTS entry "
            "(chunk INTEGER, name TEXT, data BLOB, PRIMARY KEY (chunk, name))"
        )

    @contextlib.contextmanager
    def _trouble(self) -> Iterator[None]:
        """A file that is damaged is begun anew; one that cannot be used otherwise is left alone."""
        try:
            yield
        except (sqlite3.OperationalError, OSError) as e:
            self._say(f"cannot be used: {e}; nothing more is kept for a next run")
            self._abandon()
        except (sqlite3.Error, UnicodeDecodeError) as e:
            self._say(f"was damaged ({e}) and is begun anew")
            self._abandon()
            with contextlib.suppress(sqlite3.Error, OSError):
                self.path.unlink()
                self._open()

    def _abandon(self) -> None:
        with contextlib.suppress(sqlite3.Error):
            self.close()
        self._connection = None

    def _say(self, what: str) -> None:
        if not self._said:
            self._note(f"the cache {self.path} {what}")
        self._said = True


def _pack(arrays: Arrays) -> bytes:
    head = json.dumps({key: (a.dtype.str, a.shape) for key, a in arrays.items()}).encode()
    body = b"".join(np.ascontiguousarray(a).tobytes() for a in arrays.values())
    return len(head).to_bytes(4, "little") + head + body


def _unpack(raw: bytes) -> dict[str, AnyArray]:
    arrays, start = {}, 4 + int.from_bytes(raw[:4], "little")
    for key, (dtype, shape) in json.loads(raw[4:start]).items():
        n = math.prod(shape)
        arrays[key] = np.frombuffer(raw, dtype, n, start).reshape(shape)
        start += n * np.dtype(dtype).itemsize
    return arrays


def _check(chunk: int, name: str, data: bytes) -> bytes:
    """Of the whole entry: what it is an entry for can be damaged as well."""
    return blake3(f"{chunk} {name} ".encode() + data).digest(CHECK_BYTES)
