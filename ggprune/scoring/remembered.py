"""A row source that is asked for nothing twice: what was measured before comes from the cache."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace

import numpy as np

from ggprune.metrics.estimates import Float64
from ggprune.metrics.text import Text
from ggprune.model.cut import Cut
from ggprune.model.model import Model
from ggprune.model.unit import Unit
from ggprune.progress import SILENT, Progress
from ggprune.runtime.compute import Compute
from ggprune.runtime.devices import computing_on
from ggprune.runtime.library import versions
from ggprune.runtime.workers import KindInfo, WorkerInfo
from ggprune.scoring.cache import Arrays, Cache, ScoreCache
from ggprune.scoring.measure import MeasuredRows, MeasureOptions
from ggprune.scoring.rows import NOTHING, BaseRows, Effort, Rows, RowSource

BASE, PROBE = "base", "probe"  # names in the cache: the whole model, what tells machines apart


class RememberedRows:
    """A row source around another one, and a cache, if there is one."""

    def __init__(self, source: RowSource, cache: Cache | None, unit: Unit) -> None:
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
    def divided(self) -> frozenset[int]:
        return self.source.divided

    @property
    def effort(self) -> Effort:
        return replace(self.source.effort, n_cached=self._n_cached)

    @property
    def workers(self) -> tuple[WorkerInfo, ...]:
        return self.source.workers

    @property
    def kinds(self) -> tuple[KindInfo, ...]:
        return self.source.kinds

    def expect(
        self, first: Mapping[Cut, int], within: Cut = NOTHING, *, is_sure: bool = False
    ) -> None:
        """As `RowSource.expect`."""
        self.source.expect(first, within, is_sure=is_sure)

    def missing(self, number: int, cuts: Sequence[Cut]) -> list[Cut]:
        """Those of the cuts that would have to be measured on a chunk."""
        if self.cache is None:
            return list(cuts)
        known = self.cache.names(number)
        return [cut for cut in cuts if self._name(cut) not in known]

    def base(self, number: int) -> BaseRows:
        known = self._known(number, [BASE])
        if BASE not in known:
            return self._measured_base(number)
        self._n_cached += 1
        return BaseRows(**known[BASE])

    def base_nll(self, number: int) -> Float64:
        """Of the whole model's scored tokens, (n_token,) nats; kept once it is known."""
        if number not in self._base_nll:
            self._base_nll[number] = self.base(number).nll
        return self._base_nll[number]

    def rows(self, number: int, cuts: Sequence[Cut], within: Cut = NOTHING) -> Iterator[Rows]:
        known = self._known(number, map(self._name, cuts))
        missing = [cut for cut in cuts if self._name(cut) not in known]
        if missing and number not in self._base_nll:
            self._measured_base(number)  # what comes is compared with it
        measured = self.source.rows(number, missing, within)
        for name in map(self._name, cuts):
            if name in known:
                self._n_cached += 1
                yield Rows(**known[name])
            else:
                rows = next(measured)
                self._keep(number, name, rows)
                yield rows

    def _measured_base(self, number: int) -> BaseRows:
        rows = self.source.base(number)
        self._base_nll[number] = rows.nll
        self._keep(number, BASE, rows)
        return rows

    def _known(self, number: int, names: Iterator[str] | Sequence[str]) -> Mapping[str, Arrays]:
        return self.cache.get(number, names) if self.cache is not None else {}

    def _keep(self, number: int, name: str, rows: Rows | BaseRows) -> None:
        if self.cache is not None:
            self.cache.put(number, name, vars(rows))

    def _name(self, cut: Cut) -> str:
        """A cut's name in the cache, whose key has the unit: `2,3`."""
        return ",".join(str(p.layer if p.unit is self.unit else p) for p in cut)


# Opens the rows of a model on a text, and closes them.
RowsOpener = Callable[
    [Model, Text, MeasureOptions, Progress], contextlib.AbstractContextManager[RememberedRows]
]


@contextlib.contextmanager
def open_rows(
    model: Model, text: Text, options: MeasureOptions, progress: Progress = SILENT
) -> Iterator[RememberedRows]:
    """The rows of a model on a text, those in the folder `options.cache` and new ones.

    `progress` gets notes on the cache. Raises what `MeasuredRows` raises.
    """
    with MeasuredRows(model, text, options) as source:
        if options.cache is None:
            yield RememberedRows(source, None, options.unit)
            return
        bits = _bits(model, text, options, source, progress)
        opened = cache_of(options, model.fingerprint, text, bits, progress)
        with contextlib.closing(opened) as cache:
            yield RememberedRows(source, cache, options.unit)


def cache_of(
    options: MeasureOptions, fingerprint: str, text: Text, bits: str, progress: Progress
) -> ScoreCache:
    """What was measured of a model on a text by whatever gives the same `bits` on its probe."""
    assert options.cache is not None
    settings = {**_settings(options, fingerprint, text), "bits": bits}
    return ScoreCache(options.cache, settings, progress.note)


def _settings(options: MeasureOptions, fingerprint: str, text: Text) -> dict[str, object]:
    compute = options.compute or Compute()
    return {
        "fingerprint": fingerprint, "text": text.sha256, "n_ctx": options.n_ctx,
        "unit": options.unit.value, "flash_attn": compute.flash_attn,
        "n_gpu_layers": compute.n_gpu_layers, "versions": versions(),
    }  # fmt: skip


def _bits(
    model: Model, text: Text, options: MeasureOptions, source: MeasuredRows, progress: Progress
) -> str:
    """Of the probe of this machine, which is computed once."""
    assert options.cache is not None
    settings = {
        **_settings(options, model.fingerprint, text), "computing_on": computing_on(),
    }  # fmt: skip
    with contextlib.closing(ScoreCache(options.cache, settings, progress.note)) as probes:
        known = probes.get(0, [PROBE]).get(PROBE)
        if known is not None:
            return known["bits"].tobytes().hex()
        bits = source.measurer.probe(source.chunks[0]).bits
        probes.put(0, PROBE, {"bits": np.frombuffer(bytes.fromhex(bits), np.uint8)})
        return bits
