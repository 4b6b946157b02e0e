"""In a worker: one loaded model, or what else a job needs, and what it answers.

The functions here are what the coordinator has workers call. A worker has the engine of one setup.
"""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from copy import copy
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np

from ggprune.cluster.place import Place, this_place
from ggprune.cluster.work import (
    Answer,
    ChunkAnswer,
    ChunkTask,
    Engine,
    Introduction,
    Refusal,
    Setup,
)
from ggprune.errors import GGPruneError, LlamaError
from ggprune.metrics.chunks import Chunk
from ggprune.metrics.estimates import Float32
from ggprune.model.model import Model, open_shards
from ggprune.runtime.compute import Compute
from ggprune.runtime.devices import backend_names, build_commit, devices
from ggprune.runtime.lastwords import announce
from ggprune.runtime.session import LlamaModel
from ggprune.runtime.workers import WorkerInfo
from ggprune.scoring.kept import FREE_SHARE, free_bytes
from ggprune.scoring.measure import MeasureOptions, Measurer, Probe
from ggprune.scoring.rows import Effort
from ggprune.version import __version__


class _Loaded:
    """The engine of this process, and how many threads compute with it."""

    def __init__(self) -> None:
        self.changed = threading.Condition()
        self.setup: Setup | None = None
        self.engine: Engine | None = None
        self.n_user = 0

    @contextmanager
    def using(self, setup: Setup, place: Place) -> Iterator[Engine]:
        """Another one is freed when nobody computes with it any more."""
        with self.changed:
            self.changed.wait_for(lambda: self.setup == setup or not self.n_user)
            if self.engine is None or self.setup != setup:
                if self.engine is not None:
                    self.engine.close()
                self.engine, self.setup = None, None
                self.engine, self.setup = setup.engine(_models(setup, place), place), setup
            engine = self.engine
            self.n_user += 1
        try:
            yield engine
        finally:
            with self.changed:
                self.n_user -= 1
                self.changed.notify_all()

    def release(self) -> None:
        """Free it, unless somebody computes with it."""
        with self.changed:
            if self.engine is not None and not self.n_user:
                self.engine.close()
                self.engine, self.setup = None, None


_LOADED = _Loaded()


def introduce(setup: Setup) -> Introduction | Refusal:
    """Load what the setup needs, and say who computes here."""
    start, host = time.perf_counter(), socket.gethostname()
    try:
        _check_versions(setup)
        with using(setup) as engine:
            bits, said, n_slot = engine.bits, getattr(engine, "said", None), engine.n_slot
    except GGPruneError as e:
        return Refusal(f"{host}: {e}")
    except OSError as e:
        return Refusal(f"{host}: {e.filename or setup.models[0].paths[0]}: {e.strerror or e}")
    found = [device for device in devices() if device.is_gpu] or list(devices()[:1])
    info = WorkerInfo(
        host=host, device=", ".join(dict.fromkeys(each.description for each in found)),
        backend=backend_names(), build=build_commit(), bits=bits,
        load_s=time.perf_counter() - start,
    )  # fmt: skip
    return Introduction(info=info, said=said, n_slot=n_slot)


def carry_out(setup: Setup, task: object) -> Answer:
    """Raises what computing it raises."""
    with using(setup) as engine:
        return Answer(engine.answer(task), engine.bits)


def probe(setup: Setup) -> list[Float32]:
    """Logits of the last tokens of the probe, to see how far two workers are apart."""
    with using(setup) as engine:
        return [np.array(logits[-PROBE_TOKENS:]) for logits in engine.probe()]


PROBE_TOKENS = 16


def is_loaded() -> bool:
    """Is memory taken here?"""
    return _LOADED.engine is not None


def release() -> None:
    """Give back the memory of what is loaded here."""
    _LOADED.release()


def using(setup: Setup) -> AbstractContextManager[Engine]:
    """The engine of a setup, for the `with` block; loaded if need be."""
    return _LOADED.using(setup, this_place())


def _check_versions(setup: Setup) -> None:
    if setup.ggprune != __version__:
        raise LlamaError(f"has ggprune {__version__}, the coordinator {setup.ggprune}")
    if setup.build != build_commit():
        raise LlamaError(f"has llama.cpp {build_commit()}, the coordinator {setup.build}")


def _models(setup: Setup, place: Place) -> list[Model]:
    """Raises LlamaError for a file that is missing, or another model."""
    models = []
    for files in setup.models:
        paths = [place.path(path) for path in files.paths]
        missing = next((path for path in paths if not path.exists()), None)
        if missing is not None:
            raise LlamaError(f"{missing}: not found; --path-map?")
        announce(paths[0])
        model = open_shards(paths)
        if model.fingerprint != files.fingerprint:
            mine, theirs = model.fingerprint[:8], files.fingerprint[:8]
            raise LlamaError(f"{paths[0]}: is another model ({mine}..., expected {theirs}...)")
        models.append(model)
    return models


@dataclass(frozen=True, kw_only=True)
class MeasureSetup(Setup):
    """Of rows: how chunks are measured, and one of them to begin with."""

    options: MeasureOptions
    sample: bytes  # tokens

    def engine(self, models: Sequence[Model], place: Place) -> Engine:
        return MeasureEngine(models[0], self, place)


@dataclass(frozen=True)
class Parts:
    """What only a loaded model tells: as in a `RowSource`."""

    parts: dict[int, int]
    divided: frozenset[int]


class MeasureEngine:
    """A loaded model, and a measurer for each task that may run at once."""

    def __init__(self, model: Model, setup: MeasureSetup, place: Place) -> None:
        self._sample = Chunk(0, np.frombuffer(setup.sample, np.int32))
        compute = replace(
            setup.options.compute or Compute(), n_threads=place.threads, rpc=place.rpc
        )
        keep = place.keep_bytes if place.keep_bytes is not None else free_bytes() // FREE_SHARE
        options = replace(setup.options, compute=compute, keep_bytes=keep // place.contexts)
        self._loaded = LlamaModel(model.path, compute, shards=[f.path for f in model.files])
        self._idle = [
            Measurer(model, self._loaded, self._sample, options) for _ in range(place.contexts)
        ]
        self._free, self.n_slot = threading.Condition(), place.contexts
        first = self._idle[0]
        self.said = Parts(dict(first.parts), first.divided)

    @cached_property
    def bits(self) -> str:
        first, again = self._probe(), self._probe()
        if first.bits != again.bits:
            raise LlamaError("does not repeat itself: the same chunk gave other logits")
        return first.bits

    def probe(self) -> Sequence[Float32]:
        found = self._probe()
        return found.whole, found.without

    def _probe(self) -> Probe:
        with self._borrowed(self._sample) as measurer:
            return measurer.probe(self._sample)

    def answer(self, task: object) -> ChunkAnswer:
        assert isinstance(task, ChunkTask)
        chunk = task.chunk
        with self._borrowed(chunk) as measurer:
            before = copy(measurer.effort)
            rows = tuple(measurer.rows(chunk, task.cuts, task.within))
            base = measurer.base(chunk) if task.with_base else None
            return ChunkAnswer(rows=rows, base=base, effort=_since(before, measurer.effort))

    def stream(self, chunk: Chunk) -> list[Float32 | None]:
        """What enters every part, and leaves the last one: (n_ctx, n_embd) each."""
        with self._borrowed(chunk) as measurer:
            return measurer.stream(chunk)

    def close(self) -> None:
        for measurer in self._idle:
            measurer.__exit__()
        self._loaded.close()

    @contextmanager
    def _borrowed(self, chunk: Chunk) -> Iterator[Measurer]:
        """One that nobody uses; if there is one that knows the chunk, that one."""
        with self._free:
            self._free.wait_for(lambda: self._idle)
            self._idle.sort(key=lambda measurer: not measurer.knows(chunk))
            measurer = self._idle.pop(0)
        try:
            yield measurer
        finally:
            with self._free:
                self._idle.append(measurer)
                self._free.notify()


def _since(before: Effort, now: Effort) -> Effort:
    return Effort(
        n_pass=now.n_pass - before.n_pass, work=now.work - before.work,
        decode_s=now.decode_s - before.decode_s, callback_s=now.callback_s - before.callback_s,
        statistics_s=now.statistics_s - before.statistics_s,
    )  # fmt: skip
