"""Which layers are of which kind, where a period says so: the formulas of llama.cpp.

Sliding windows: `llama_hparams::set_swa_pattern` (src/llama-hparams.cpp). Recurrent layers: the
`full_attention_interval` of src/models/qwen35.cpp and its relatives.
"""

from __future__ import annotations

from collections.abc import Sequence

Flags = tuple[bool, ...]  # one per layer


def swa_flags(period: int, n: int, *, dense_first: bool = False) -> Flags:
    """True for layers with a sliding window. Period 0: all of them."""
    if period == 0:
        return (True,) * n
    if dense_first:
        return tuple(i % period != 0 for i in range(n))
    return tuple(i % period < period - 1 for i in range(n))


def recurrent_flags(interval: int, n: int) -> Flags:
    """True for recurrent layers: all but every `interval`-th."""
    return tuple((i + 1) % interval != 0 for i in range(n))


def removed_below(keep: Sequence[int]) -> tuple[int, ...]:
    """For every kept layer, how many layers in front of it are gone."""
    return tuple(old - new for new, old in enumerate(keep))
