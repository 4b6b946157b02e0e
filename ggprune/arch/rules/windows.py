"""Rules about sliding windows: which layers have one, by a period or by an explicit array."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from ggprune.arch.change import Change
from ggprune.arch.hparams import HEAD_SIZES, Flags, Hparams, Illegal, Key, Removal, swa_flags
from ggprune.arch.rules.base import UNSAID, Condition, Rule, holds

ARRAY_NOTE = "its sliding windows are stored as an array, which llama.cpp reads since 2026-09-17"


@dataclass(frozen=True, eq=False)
class SwaPeriod(Rule, binds=False):
    """Sliding windows by a period: kept while it still fits, else written as an array."""

    period: int  # unless the file states another one, or an array
    dense_first: bool = False
    window: Condition | None = None
    no_rope_in_full: bool = field(default=False, metadata=UNSAID)  # as in SwaArray

    def change(self, removal: Removal) -> Change:
        if not holds(self.window, removal):
            return Change()
        if removal.swa is not None:
            return _follow_array(removal, removal.swa)
        before = self._by_period(removal, removal.n_trunk)
        kept = tuple(before[n] for n in removal.trunk)
        _check_window_left(kept)
        if kept == self._by_period(removal, len(kept)):
            return Change()
        return Change(values=removal.flag_array(Key.SWA_PATTERN, kept), notes=(ARRAY_NOTE,))

    def windows(self, hparams: Hparams) -> Flags | None:
        if not holds(self.window, hparams):
            return None
        if hparams.swa is not None:
            return hparams.swa
        return self._by_period(hparams, hparams.n_trunk)

    def traits(self, hparams: Hparams, windows: Flags | None) -> Mapping[int, str]:
        return _window_words(hparams, windows, self.no_rope_in_full)

    def _by_period(self, hparams: Hparams, n: int) -> Flags:
        return swa_flags(hparams.integer(Key.SWA_PATTERN, self.period), n, self.dense_first)


@dataclass(frozen=True, eq=False)
class SwaArray(Rule, binds=False):
    """Sliding windows by an explicit array, which is sliced like any other; one must remain."""

    no_rope_in_full: bool = field(default=False, metadata=UNSAID)  # only layers with a window

    def change(self, removal: Removal) -> Change:
        return Change() if removal.swa is None else _follow_array(removal, removal.swa)

    def windows(self, hparams: Hparams) -> Flags | None:
        return hparams.swa

    def traits(self, hparams: Hparams, windows: Flags | None) -> Mapping[int, str]:
        return _window_words(hparams, windows, self.no_rope_in_full)


def _follow_array(removal: Removal, swa: Flags) -> Change:
    """`Generic` slices the array itself; some window must be left, if there was one."""
    if any(swa):
        _check_window_left([swa[n] for n in removal.trunk])
    return Change()


def _check_window_left(kept: Sequence[bool]) -> None:
    if not any(kept):
        raise Illegal("the last sliding-window layer would be gone, and llama.cpp needs one")


def _window_words(
    hparams: Hparams, windows: Flags | None, no_rope_in_full: bool
) -> Mapping[int, str]:
    size = hparams.integer(Key.SLIDING_WINDOW)
    window, full = f"window {size}" if size else "window", "NoPE" if no_rope_in_full else ""
    words = (window if flag else full for flag in windows or ())
    return {n: word for n, word in enumerate(words) if word}


@dataclass(frozen=True, eq=False)
class FirstSwa(Rule, binds=True):
    """Sizes of windowed layers differ, and llama.cpp takes those of layer 0 for all."""

    def change(self, removal: Removal) -> Change:
        sizes = (*HEAD_SIZES, "{arch}.rope.dimension_count")
        differs = any(
            removal.value(f"{key}_swa") is not None
            and removal.integer(f"{key}_swa") != removal.integer(key)
            for key in sizes
        )
        first = removal.keep[0]
        if differs and removal.swa is not None and removal.swa[first] != removal.swa[0]:
            raise Illegal(
                f"layer {first} would come first, but its window is not of layer 0's kind"
            )
        return Change()


@dataclass(frozen=True, eq=False)
class WindowsNeeded(Rule, binds=True):
    """A variant that is told by its window of size 0."""

    why: str

    def change(self, removal: Removal) -> Change:
        if removal.value(Key.SLIDING_WINDOW) is not None and not removal.integer(
            Key.SLIDING_WINDOW
        ):
            raise Illegal(f"its sliding window is 0: {self.why}")
        return Change()
