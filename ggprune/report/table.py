"""Tables that read well in a terminal and are valid Markdown, like llama-bench's."""

from __future__ import annotations

import math
from collections.abc import Sequence


def markdown_table(
    headers: Sequence[str], rows: Sequence[Sequence[str]], left: Sequence[int] = (0,)
) -> str:
    """Columns padded to equal width; those in `left` are left-aligned, the others right."""
    columns = list(zip(headers, *rows, strict=True))
    widths = [max(3, *(len(cell) for cell in column)) for column in columns]
    lines = [_line(headers, widths, left)]
    rule = [("-" * w if i in left else "-" * (w - 1) + ":") for i, w in enumerate(widths)]
    lines.append("| " + " | ".join(rule) + " |")
    lines += [_line(row, widths, left) for row in rows]
    return "\n".join(lines)


def _line(cells: Sequence[str], widths: Sequence[int], left: Sequence[int]) -> str:
    padded = (
        cell.ljust(width) if i in left else cell.rjust(width)
        for i, (cell, width) in enumerate(zip(cells, widths, strict=True))
    )
    return "| " + " | ".join(padded) + " |"


LOG_RATIO = 30.0  # values that spread wider than this are drawn on a logarithmic scale


def bars(values: Sequence[float], width: int = 16) -> list[str]:
    """A horizontal bar for each value, the longest for the largest, in eighths of a character."""
    positive = [v for v in values if v > 0]
    if not positive:
        return ["" for _ in values]
    low, high = min(positive), max(positive)
    return [_bar(_length(v, low, high), width) for v in values]


def is_log_scale(values: Sequence[float]) -> bool:
    positive = [v for v in values if v > 0]
    return bool(positive) and max(positive) > LOG_RATIO * min(positive)


def _length(value: float, low: float, high: float) -> float:
    """0 to 1; on the logarithmic scale the smallest value still gets a visible bar."""
    if value <= 0:
        return 0.0
    if high <= LOG_RATIO * low:
        return value / high
    floor = low / 2
    return math.log(value / floor) / math.log(high / floor)


def _bar(length: float, width: int) -> str:
    eighths = round(8 * width * length)
    return "█" * (eighths // 8) + " ▏▎▍▌▋▊▉"[eighths % 8].strip()
