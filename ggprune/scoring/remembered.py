"""A row source that is asked for nothing twice: what was measured before comes from the cache."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace

from ggprune.metrics.estimates import Float64
from ggprune.metrics.text import Text
from ggprune.model.cut import Cut
from ggprune.model.model import Model
from ggprune.model.unit import Unit
from ggprune.progress import SILENT, Progress
from ggprune.runtime.devices import computing_on
from ggprune.runtime.library import versions
from ggprune.runtime.session import Compute
from ggprune.scoring.cache import Arrays, ScoreCache
from ggprune.scoring.measure import MeasureOptions, Measurer
from ggprune.scoring.rows import NOTHING, BaseRows, Effort, Rows, RowSource

BASE = "base"  # the whole model's name in the cache


class RememberedRows:
    """A row source around another one, and a cache, if there is one."""

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
    def divided(self) -> frozenset[int]:
        return self.source.divided

    @property
    def effort(self) -> Effort:
        return replace(self.source.effort, n_cached=self._n_cached)

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


@contextlib.contextmanager
def open_rows(
    model: Model, text: Text, options: MeasureOptions, progress: Progress = SILENT
) -> Iterator[RememberedRows]:
    """The rows of a model on a text, those in the folder `options.cache` and new ones.

    `progress` gets notes on the cache. Raises what `Measurer` raises.
    """
    compute, unit = options.compute or Compute(), options.unit
    with Measurer(model, text, options) as measurer, contextlib.ExitStack() as stack:
        cache = None
        if options.cache is not None:
            settings = {  # all that the numbers depend on
                "fingerprint": model.fingerprint, "text": text.sha256, "n_ctx": options.n_ctx,
                "unit": unit.value, "flash_attn": compute.flash_attn,
                "n_gpu_layers": compute.n_gpu_layers, "versions": versions(),
                "computing_on": computing_on(),
            }  # fmt: skip
            cache = ScoreCache(options.cache, settings, progress.note)
            stack.enter_context(contextlib.closing(cache))
        yield RememberedRows(measurer, cache, unit)
