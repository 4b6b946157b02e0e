"""Numbers for people: sizes, counts, values with their errors."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ggprune.bench import Speed
    from ggprune.metrics.estimates import Estimate


def size(n_bytes: int) -> str:
    """`4.58 GiB`, with llama-bench's binary units."""
    value = float(n_bytes)
    for unit in ("B", "KiB", "MiB", "GiB"):
        if value < 1024 or unit == "GiB":
            return f"{n_bytes} B" if unit == "B" else f"{value:.2f} {unit}"
        value /= 1024
    raise AssertionError("unreachable")


def count(n: int) -> str:
    """`8.03 B`, `124.44 M`: decimal, as llama-bench prints parameters."""
    if n >= 1e9:
        return f"{n / 1e9:.2f} B"
    return f"{n / 1e6:.2f} M"


def estimate(e: Estimate, digits: int = 4) -> str:
    """`6.4073 ± 0.0391`."""
    if not math.isfinite(e.value):
        return str(e.value)
    return f"{number(e.value, digits)} ± {number(e.se, digits)}"


def percent(e: Estimate) -> str:
    return f"{100 * e.value:.2f} ± {100 * e.se:.2f} %"


def number(value: float, digits: int = 4) -> str:
    """Fixed decimals, or an exponent where they would be useless."""
    if value != 0 and (abs(value) < 10.0**-digits or abs(value) >= 1e6):
        return f"{value:.2e}"
    return f"{value:.{digits}f}"


def speed_cell(speed: Speed | None) -> str:
    """`12.34 ± 0.56`."""
    return f"{speed.mean:.2f} ± {speed.stdev:.2f}" if speed else "-"
