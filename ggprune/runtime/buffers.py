"""What memory a model takes: the buffers that llama.cpp says it has allocated, and the process.

The C interface has no function for the buffers (llama_get_memory_breakdown returns a C++ map), but
llama.cpp logs each of them, with its device and its size to 0.01 MiB. Lines are those of
src/llama-model.cpp, llama-kv-cache.cpp, llama-memory-recurrent.cpp and llama-context.cpp.
"""

from __future__ import annotations

import contextlib
import re
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import psutil

from ggprune.files.keys import LEFT_OUT
from ggprune.runtime.library import llama, log_tail

_BUFFER = re.compile(
    r"(?P<device>\S+) +(?:DSV4 \S+ )?(?P<kind>model|KV|RS|state|compute|output) buffer size = +"
    r"(?P<mib>[\d.]+) MiB"
)
_CACHE = re.compile(r"size = +(?P<mib>[\d.]+) MiB \( *(?P<cells>\d+) cells")
_PEAK = re.compile(r"^VmHWM:\s+(\d+) kB", re.MULTILINE)
RESERVED_AGAIN = ("compute", "output")  # of several lines for one device the last one holds
CACHES = ("KV", "RS", "state")


@dataclass(frozen=True)
class Buffer:
    """Memory on one device."""

    device: Annotated[str, "CPU, CPU_Mapped (weights in the mapped file), CPU_REPACK, CUDA0..."]
    kind: Annotated[str, "model, KV, RS (recurrent state), state, compute or output"]
    size_bytes: int


@dataclass(frozen=True)
class Cache:
    """What generating reads besides the weights: keys and values, or a recurrent state."""

    size_bytes: int  # of all cells
    n_cell: int

    def read_bytes(self, n_token: float) -> float:
        """Read for one token when `n_token` of them are in the cache, itself included."""
        return self.size_bytes * min(n_token / self.n_cell, 1.0)


@dataclass(frozen=True)
class Buffers:
    """All memory of one model and one context."""

    buffers: tuple[Buffer, ...]
    caches: Annotated[tuple[Cache, ...], LEFT_OUT] = ()

    def total(self, *kinds: str) -> int:
        return sum(b.size_bytes for b in self.buffers if b.kind in kinds)


@contextlib.contextmanager
def listening() -> Iterator[list[str]]:
    """What llama.cpp logs meanwhile, in pieces."""
    llama()
    pieces: list[str] = []
    with log_tail().heard_by(pieces.append):
        yield pieces


def parse_buffers(log: str) -> Buffers:
    """The buffers that a log speaks of, in its order."""
    sizes: dict[tuple[str, str], int] = {}
    for match in _BUFFER.finditer(log):
        key, size = (match["device"], match["kind"]), _bytes(match["mib"])
        sizes[key] = size if match["kind"] in RESERVED_AGAIN else sizes.get(key, 0) + size
    caches = [Cache(_bytes(m["mib"]), max(int(m["cells"]), 1)) for m in _CACHE.finditer(log)]
    return Buffers(tuple(Buffer(*key, size) for key, size in sizes.items()), tuple(caches))


def peak_rss_bytes() -> int:
    """The most memory this process has had at once, pages of mapped files included.

    On Linux that of the program that runs now: `ru_maxrss` counts what its parent had, too.
    """
    status = Path("/proc/self/status")
    if status.exists() and (match := _PEAK.search(status.read_text("ascii", "replace"))):
        return int(match[1]) * 1024
    memory = psutil.Process().memory_info()
    if hasattr(memory, "peak_wset"):  # Windows
        return int(memory.peak_wset)
    import resource

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024  # the unit is the system's


def _bytes(mib: str) -> int:
    return round(float(mib) * (1 << 20))
