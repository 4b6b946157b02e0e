"""Workers of several kinds, which compute other bits: a chunk belongs to one of them alone.

Each kind has a cache of its own.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping

from ggprune.cluster.crew import Crew
from ggprune.errors import DataError
from ggprune.model.layers import format_layers
from ggprune.progress import duration
from ggprune.runtime.workers import KindInfo
from ggprune.scoring.cache import AnyArray, Arrays, ScoreCache
from ggprune.scoring.remembered import BASE


class Kinds:
    """Which kind of worker a chunk belongs to."""

    def __init__(self, crew: Crew) -> None:
        self.crew = crew
        self._of: dict[int, str] = {}  # by chunk: bits
        self._kept: set[int] = set()  # chunks that are known from an earlier run
        self._alone_since = time.monotonic()

    def of(self, chunk: int) -> str | None:
        """Bits of the workers that compute a chunk, once one of them has begun."""
        return self._of.get(chunk)

    def settle(self, chunk: int, bits: str) -> None:
        """Nothing if that has been settled."""
        self._of.setdefault(chunk, bits)

    def keep(self, chunk: int, bits: str) -> None:
        """It is known from an earlier run, by this kind."""
        self.settle(chunk, bits)
        self._kept.add(chunk)

    def present(self) -> list[str]:
        """Bits of the workers that are there, the first one's first."""
        return list(dict.fromkeys(member.info.bits for member in self.crew.members.values()))

    def check(self, chunk: int, *, is_begun: bool) -> None:
        """Is there somebody to go on with a chunk? Raises DataError if nobody has been for long.

        One that nothing is known of yet may be computed by anybody.
        """
        bits, wait_s = self._of.get(chunk), self.crew.rules.wait_s
        if bits is None or bits in self.present():
            self._alone_since = time.monotonic()
        elif not is_begun and chunk not in self._kept:
            del self._of[chunk]
        elif time.monotonic() - self._alone_since > wait_s:
            raise DataError(
                f"chunk {chunk} was begun by workers that compute other bits ({bits[:8]}...) than "
                f"those that are left; none of them came back within {duration(wait_s)} (--wait)"
            )

    def infos(self) -> tuple[KindInfo, ...]:
        """Where there are several."""
        return kind_infos(self.crew, self._of)


def kind_infos(crew: Crew, bits_of: Mapping[int, str]) -> tuple[KindInfo, ...]:
    """Of the bits that each chunk was computed with; none where all are the same."""
    if len(set(bits_of.values())) < 2:
        return ()
    first = {info.bits: info for info in reversed(crew.all_infos)}
    return tuple(
        KindInfo(
            device=f"{first[bits].backend} ({first[bits].device})", bits=bits,
            chunks=format_layers(n for n, kind in bits_of.items() if kind == bits),
            kld=crew.likeness.distance.get(bits, 0.0),
        )
        for bits in dict.fromkeys(bits_of[n] for n in sorted(bits_of))
    )  # fmt: skip


class KindCaches:
    """As a `ScoreCache`: whatever is known of a chunk comes from the kind that computes it."""

    def __init__(self, kinds: Kinds, open_cache: Callable[[str], ScoreCache]) -> None:
        """`open_cache` opens that of a kind, by its bits."""
        self._kinds, self._open = kinds, open_cache
        self._caches: dict[str, ScoreCache] = {}

    def close(self) -> None:
        for cache in self._caches.values():
            cache.close()

    def get(self, chunk: int, names: Iterable[str]) -> dict[str, dict[str, AnyArray]]:
        cache = self._of(chunk)
        return cache.get(chunk, names) if cache is not None else {}

    def names(self, chunk: int) -> frozenset[str]:
        cache = self._of(chunk)
        return cache.names(chunk) if cache is not None else frozenset()

    def put(self, chunk: int, name: str, arrays: Arrays) -> None:
        cache = self._of(chunk)
        assert cache is not None
        cache.put(chunk, name, arrays)

    def _of(self, chunk: int) -> ScoreCache | None:
        """That of the chunk's kind; of a chunk that has none, the first that has begun it."""
        settled = self._kinds.of(chunk)
        if settled is not None:
            return self._cache(settled)
        for bits in self._kinds.present():
            if BASE in self._cache(bits).names(chunk):
                self._kinds.keep(chunk, bits)
                return self._cache(bits)
        return None

    def _cache(self, bits: str) -> ScoreCache:
        if bits not in self._caches:
            self._caches[bits] = self._open(bits)
        return self._caches[bits]
