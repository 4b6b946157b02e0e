"""Numbers for people: sizes, counts, values with their errors."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ggprune.bench.ratio import Ratio
    from ggprune.bench.speed import Speed
    from ggprune.metrics.estimates import Estimate
    from ggprune.model.cut import Cut


def size(n_bytes: int) -> str:
    """`4.58 GiB`, with llama-bench's binary units."""
    for unit, name in ((2**30, "GiB"), (2**20, "MiB"), (2**10, "KiB")):
        if n_bytes >= unit:
            return f"{n_bytes / unit:.2f} {name}"
    return f"{n_bytes} B"


def count(n: int) -> str:
    """`8.03 B`, `124.44 M`: decimal, as llama-bench prints parameters."""
    return f"{n / 1e9:.2f} B" if n >= 1e9 else f"{n / 1e6:.2f} M"


def estimate(e: Estimate) -> str:
    """`6.4073 ± 0.0391`."""
    return f"{number(e.value)} ± {number(e.se)}" if math.isfinite(e.value) else str(e.value)


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


def dropped_cell(drop: Cut) -> str:
    """`3`, for layers, or `5 units`, where some of them are not in pairs."""
    n = drop.count
    return str(n) if n == drop.depth else f"{n} unit{'s' if n > 1 else ''}"


def ratio_cell(ratio: Ratio | None) -> str:
    """`1.234x (1.200 - 1.268)`; the first model is as fast as itself."""
    if ratio is None:
        return "1.000x"
    if ratio.low is None or ratio.high is None:
        return f"{ratio.value:.3f}x"
    return f"{ratio.value:.3f}x ({ratio.low:.3f} - {ratio.high:.3f})"


def named_versions(versions: Mapping[str, str]) -> str:
    return ", ".join(f"{name} {version}" for name, version in versions.items())
