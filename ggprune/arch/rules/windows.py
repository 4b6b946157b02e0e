"""Rules about sliding windows: which layers have one, by a period or by an explicit array."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from ggprune.arch.change import Change
from ggprune.arch.hparams import HEAD_SIZES, Flags, Hparams, Illegal, Key, Removal, swa_flags
from ggprune.arch.rules.base import UNSAID, Condition, Rule, holds
from ggprune.model.unit import Unit

WINDOWED_SIZES = (*HEAD_SIZES, "{arch}.rope.dimension_count")  # `_swa` behind them
ARRAY_NOTE = "its sliding windows are stored as an array, which llama.cpp reads since 2026-09-17"


@dataclass(frozen=True, eq=False)
class SwaPeriod(Rule, binds=False, half=Unit.ATTN):
    """Sliding windows by a period: kept while it still fits, else written as an array; where
    windowed layers state other sizes, one of layer 0's kind comes first."""

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
        _check_first(removal, before)
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
class SwaArray(Rule, binds=False, half=Unit.ATTN):
    """Sliding windows by an explicit array, which is sliced like any other; one must remain, and
    where windowed layers state other sizes, one of layer 0's kind comes first.

    Most graphs take the head sizes and RoPE's dimensions of all layers from layer 0:
    `n_rot` and the like in llama-hparams.cpp, whose index is 0 by default.
    """

    sizes_by_layer: bool = field(default=False, metadata=UNSAID)  # the graph asks each layer
    no_rope_in_full: bool = field(default=False, metadata=UNSAID)  # only layers with a window

    def change(self, removal: Removal) -> Change:
        if removal.swa is None:
            return Change()
        return _follow_array(removal, removal.swa, check_first=not self.sizes_by_layer)

    def windows(self, hparams: Hparams) -> Flags | None:
        return hparams.swa

    def traits(self, hparams: Hparams, windows: Flags | None) -> Mapping[int, str]:
        return _window_words(hparams, windows, self.no_rope_in_full)


@dataclass(frozen=True, eq=False)
class WindowedAttention(Rule, binds=False, half=Unit.ATTN):
    """All attention layers have a sliding window if its size is stated, the recurrent ones none:
    where windowed layers state other sizes, a layer of layer 0's kind comes first."""

    def change(self, removal: Removal) -> Change:
        windows = self.windows(removal)
        if windows is not None:
            _check_first(removal, windows)
        return Change()

    def windows(self, hparams: Hparams) -> Flags | None:
        recurrent = hparams.recurrent()
        if recurrent is None or not hparams.has_windows:
            return None
        return tuple(not flag for flag in recurrent)

    def traits(self, hparams: Hparams, windows: Flags | None) -> Mapping[int, str]:
        return _window_words(hparams, windows, no_rope_in_full=False)


def _follow_array(removal: Removal, swa: Flags, *, check_first: bool = True) -> Change:
    """`Generic` slices the array itself; some window must be left, if there was one."""
    if any(swa):
        _check_window_left([swa[n] for n in removal.trunk])
    if check_first:
        _check_first(removal, swa)
    return Change()


def _check_window_left(kept: Sequence[bool]) -> None:
    if not any(kept):
        raise Illegal("the last sliding-window layer would be gone, and llama.cpp needs one")


def _check_first(removal: Removal, windows: Flags) -> None:
    """Raises Illegal if a layer with other sizes than layer 0's would come first."""
    first = removal.trunk[0]
    differ = [key for key in WINDOWED_SIZES if _has_other_size(removal, key)]
    if differ and windows[first] != windows[0]:
        raise Illegal(
            f"layer {first} would come first, whose window is not of layer 0's kind: llama.cpp "
            f"takes {removal.key(differ[0])} or {removal.key(differ[0])}_swa for all layers by it"
        )


def _has_other_size(removal: Removal, key: str) -> bool:
    windowed = removal.value(f"{key}_swa")
    return windowed is not None and removal.integer(f"{key}_swa") != removal.integer(key)


def _window_words(
    hparams: Hparams, windows: Flags | None, no_rope_in_full: bool
) -> Mapping[int, str]:
    size = hparams.integer(Key.SLIDING_WINDOW)
    window, full = f"window {size}" if size else "window", "NoPE" if no_rope_in_full else ""
    words = (window if flag else full for flag in windows or ())
    return {n: word for n, word in enumerate(words) if word}


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
