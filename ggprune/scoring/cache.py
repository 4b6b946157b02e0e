"""Rows that are measured once. A run that was killed continues, and more chunks extend it.

One SQLite file per model, text and settings; an entry is written when it is complete, so whatever
happens the file holds whole entries only.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import sqlite3
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ggprune.errors import OutputError
from ggprune.metrics.estimates import Float64
from ggprune.metrics.text import Text
from ggprune.model import Model
from ggprune.model.cut import Cut, Unit
from ggprune.runtime.library import versions
from ggprune.runtime.session import Compute
from ggprune.scoring.measure import MeasureOptions, Measurer
from ggprune.scoring.rows import NOTHING, BaseRows, Effort, Rows, RowSource

FORMAT = 1
WAIT_S = 30.0  # for another process that writes
BASE = "base"  # the whole model's name in the cache

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
        rows = self.connection.execute("SELECT name FROM entry WHERE chunk = ?", (chunk,))
        return frozenset(name for (name,) in rows)

    def get(self, chunk: int, name: str) -> dict[str, AnyArray] | None:
        row = self.connection.execute(
            "SELECT data FROM entry WHERE chunk = ? AND name = ?", (chunk, name)
        ).fetchone()
        if row is None:
            return None
        raw, arrays = row[0], {}
        start = 4 + int.from_bytes(raw[:4], "little")
        for key, (dtype, shape) in json.loads(raw[4:start]).items():
            n = int(np.prod(shape))
            arrays[key] = np.frombuffer(raw, dtype, n, start).reshape(shape)
            start += n * np.dtype(dtype).itemsize
        return arrays

    def put(self, chunk: int, name: str, arrays: Arrays) -> None:
        """Raises OutputError if it cannot be written."""
        head = json.dumps({key: (a.dtype.str, a.shape) for key, a in arrays.items()}).encode()
        body = b"".join(np.ascontiguousarray(a).tobytes() for a in arrays.values())
        data = len(head).to_bytes(4, "little") + head + body
        try:
            with self.connection:
                self.connection.execute(
                    "INSERT OR REPLACE INTO entry VALUES (?, ?, ?)", (chunk, name, data)
                )
        except sqlite3.Error as e:
            raise OutputError(f"{self.path}: cannot be written: {e} (--no-cache)") from e


class RememberedRows:
    """A row source around another one, which is asked for nothing twice where there is a cache."""

    def __init__(self, source: RowSource, cache: ScoreCache | None, unit: Unit) -> None:
        self.source, self.cache = source, cache
        self.unit = unit  # what all cuts consist of
        self._n_cached = 0
        self._base_nll: dict[int, Float64] = {}

    @property
    def n_chunk(self) -> int:
        return self.source.n_chunk

    @property
    def parts(self) -> Mapping[int, int]:
        return self.source.parts

    @property
    def effort(self) -> Effort:
        return replace(self.source.effort, n_cached=self._n_cached)

    def base(self, number: int) -> BaseRows:
        if BASE in self._known(number):
            return BaseRows(**self._recalled(number, BASE))
        return self._measured_base(number)

    def base_nll(self, number: int) -> Float64:
        """Of the whole model's scored tokens, (n_token,) nats; kept once it is known."""
        if number not in self._base_nll:
            self._base_nll[number] = self.base(number).nll
        return self._base_nll[number]

    def rows(self, number: int, cuts: Sequence[Cut], within: Cut = NOTHING) -> Iterator[Rows]:
        known = self._known(number)
        missing = [cut for cut in cuts if self._name(cut) not in known]
        if missing and number not in self._base_nll:
            self._measured_base(number)  # what comes is compared with it
        measured = self.source.rows(number, missing, within)
        for name in map(self._name, cuts):
            if name in known:
                yield Rows(**self._recalled(number, name))
            else:
                rows = next(measured)
                self._keep(number, name, rows)
                yield rows

    def _measured_base(self, number: int) -> BaseRows:
        rows = self.source.base(number)
        self._base_nll[number] = rows.nll
        self._keep(number, BASE, rows)
        return rows

    def _known(self, number: int) -> frozenset[str]:
        return self.cache.names(number) if self.cache is not None else frozenset()

    def _recalled(self, number: int, name: str) -> Mapping[str, AnyArray]:
        """What is known to be in the cache."""
        arrays = self.cache.get(number, name) if self.cache is not None else None
        assert arrays is not None
        self._n_cached += 1
        return arrays

    def _keep(self, number: int, name: str, rows: Rows | BaseRows) -> None:
        if self.cache is not None:
            self.cache.put(number, name, vars(rows))

    def _name(self, cut: Cut) -> str:
        """A cut's name in the cache, whose key has the unit: `2,3`."""
        return ",".join(str(p.layer if p.unit is self.unit else p) for p in cut)


@contextlib.contextmanager
def open_rows(model: Model, text: Text, options: MeasureOptions) -> Iterator[RememberedRows]:
    """The rows of a model on a text, those in the folder `options.cache` and new ones.

    Raises what `Measurer` raises, OutputError if the folder cannot be written.
    """
    compute, unit = options.compute or Compute(), options.unit
    with Measurer(model, text, options) as measurer, contextlib.ExitStack() as stack:
        cache = None
        if options.cache is not None:
            settings = {  # all that the numbers depend on
                "fingerprint": model.fingerprint, "text": text.sha256, "n_ctx": options.n_ctx,
                "unit": unit.value, "flash_attn": compute.flash_attn,
                "n_gpu_layers": compute.n_gpu_layers, "versions": versions(),
            }  # fmt: skip
            cache = ScoreCache(options.cache, settings)
            stack.enter_context(contextlib.closing(cache))
        yield RememberedRows(measurer, cache, unit)
